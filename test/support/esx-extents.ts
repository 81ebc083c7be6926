import type { Random } from './model.ts';

/**
 * Extents as only ESX makes them, written down from their descriptions: COWD from VMware's Virtual Disk Format 5.0, "ESX
 * Server Sparse Extents"; SESparse, which VMware does not describe, as its readers take it.
 */

const SECTOR = 512;

/** Which grains of the disk are stored: the others read as zeros. */
function grainsOf(disk: Buffer, grainBytes: number): { index: number; bytes: Buffer }[] {
  const grains: { index: number; bytes: Buffer }[] = [];
  for (let index = 0; index * grainBytes < disk.length; index += 1) {
    const bytes = Buffer.alloc(grainBytes);
    disk.copy(bytes, 0, index * grainBytes, (index + 1) * grainBytes);
    if (bytes.some((byte) => byte !== 0)) grains.push({ index, bytes });
  }
  return grains;
}

/** A COWD extent: header, directory, tables of 4096 entries, grains in a random order. */
export function makeCowd(disk: Buffer, random: Random, grainSectors = 16): Buffer {
  const grainBytes = grainSectors * SECTOR;
  const grains = random.shuffled(grainsOf(disk, grainBytes));
  const tables = Math.ceil(disk.length / grainBytes / 4096);
  const directory = 4;
  const firstTable = directory + Math.ceil((tables * 4) / SECTOR);
  const firstGrain = firstTable + tables * 32;
  const file = Buffer.alloc((firstGrain + grains.length * grainSectors) * SECTOR);
  const header = [0x44574f43, 1, 3, disk.length / SECTOR, grainSectors, directory, tables, file.length / SECTOR];
  header.forEach((value, index) => {
    file.writeUInt32LE(value, index * 4);
  });
  for (let table = 0; table < tables; table += 1) {
    file.writeUInt32LE(firstTable + table * 32, directory * SECTOR + table * 4);
  }
  grains.forEach(({ index, bytes }, place) => {
    const sector = firstGrain + place * grainSectors;
    file.writeUInt32LE(sector, firstTable * SECTOR + index * 4);
    bytes.copy(file, sector * SECTOR);
  });
  return file;
}

const SE_GRAIN = 8 * SECTOR;
const SE_TABLE = 64 * SECTOR;

/** A SESparse extent: two headers, directory, tables in a random order, grains in a random order. */
export function makeSeSparse(disk: Buffer, random: Random): Buffer {
  const grains = random.shuffled(grainsOf(disk, SE_GRAIN));
  const tables = Math.ceil(disk.length / SE_GRAIN / 4096);
  const order = random.shuffled(Array.from({ length: tables }, (_, index) => index));
  const [directory, firstTable] = [2, 3];
  const firstGrain = firstTable + tables * 64;
  const file = Buffer.alloc((firstGrain + grains.length * 8) * SECTOR);
  const field = (at: number, value: bigint | number) => file.writeBigUInt64LE(BigInt(value), at);
  field(0, 0xcafebabe);
  field(8, 0x2_0000_0001n);
  field(16, disk.length / SECTOR);
  field(24, 8);
  field(32, 64);
  field(80, 1);
  field(88, 1);
  field(128, directory);
  field(136, 1);
  field(144, firstTable);
  field(152, tables * 64);
  field(192, firstGrain);
  field(200, grains.length * 8);
  field(SECTOR, 0xcafecafe);
  order.forEach((place, index) => {
    field(directory * SECTOR + index * 8, (0x1000_0000n << 32n) | BigInt(place));
  });
  const entryAt = (index: number) =>
    firstTable * SECTOR + order[Math.floor(index / 4096)] * SE_TABLE + (index % 4096) * 8;
  grains.forEach(({ index, bytes }, place) => {
    // The lowest twelve bits of a grain's number stand above the others.
    field(entryAt(index), (3n << 60n) | (BigInt(place & 0xfff) << 48n) | BigInt(place >> 12));
    bytes.copy(file, firstGrain * SECTOR + place * SE_GRAIN);
  });
  const stored = new Set(grains.map(({ index }) => index));
  for (let index = 0; index * SE_GRAIN < disk.length; index += 1) {
    // Grains without data: nothing, unmapped, or zeros.
    if (!stored.has(index)) field(entryAt(index), BigInt(random.below(3)) << 60n);
  }
  return file;
}

/** The descriptor of an image of such extents. */
export function esxDescriptor(createType: string, lines: readonly string[]): string {
  const head = ['# Disk DescriptorFile', 'version=1', 'CID=0a1b2c3d', 'parentCID=ffffffff'];
  // Not after an empty line: QEMU 7.2 then takes the first extent twice.
  return [...head, `createType="${createType}"`, '', '# Extent description', ...lines, ''].join('\n');
}
