import { Random } from './model.ts';

const SECTOR = 512;

export interface BochsRecipe {
  version?: 1 | 2;
  /** Guest bytes of an extent; default 16 KiB. */
  extentSize?: number;
  /** Catalog entries beyond those that the disk needs. */
  spareEntries?: number;
  /** Extents are stored in an order of this seed's; default: as they come. */
  seed?: number;
}

/** A growing redolog with the contents of `disk`: sectors of zeros are not written, and extents of such not there. */
export function makeBochs(disk: Buffer, recipe: BochsRecipe = {}): Buffer {
  const { version = 2, extentSize = 16 * 1024, spareEntries = 0, seed } = recipe;
  const entries = Math.ceil(disk.length / extentSize) + spareEntries;
  const bitmapBytes = Math.max(1, Math.ceil(extentSize / SECTOR / 8));
  const header = Buffer.alloc(SECTOR);
  header.write('Bochs Virtual HD Image', 0);
  header.write('Redolog', 32);
  header.write('Growing', 48);
  header.writeUInt32LE(version << 16, 64);
  for (const [index, value] of [SECTOR, entries, bitmapBytes, extentSize].entries()) {
    header.writeUInt32LE(value, 68 + 4 * index);
  }
  header.writeBigUInt64LE(BigInt(disk.length), version === 1 ? 84 : 88);
  const catalog = Buffer.alloc(entries * 4, 0xff);
  const parts: Buffer[] = [];
  const order = Array.from({ length: Math.ceil(disk.length / extentSize) }, (_, index) => index);
  for (const index of seed === undefined ? order : new Random(seed).shuffled(order)) {
    const stored = storedExtent(disk.subarray(index * extentSize, (index + 1) * extentSize), extentSize);
    if (stored === null) continue;
    catalog.writeUInt32LE(parts.length, index * 4);
    parts.push(stored);
  }
  return Buffer.concat([header, catalog, ...parts]);
}

/** Bitmap and sectors; null where all are zeros. */
function storedExtent(contents: Buffer, extentSize: number): Buffer | null {
  const bitmap = Buffer.alloc(Math.ceil(extentSize / SECTOR / 8 / SECTOR) * SECTOR);
  const sectors = Buffer.alloc(extentSize);
  for (let sector = 0; sector * SECTOR < contents.length; sector += 1) {
    const bytes = contents.subarray(sector * SECTOR, (sector + 1) * SECTOR);
    if (bytes.every((byte) => byte === 0)) {
      // What a sector that isn't there would read as if somebody did.
      sectors.fill(0xdb, sector * SECTOR, (sector + 1) * SECTOR);
      continue;
    }
    bitmap[sector >> 3] |= 1 << (sector & 7);
    bytes.copy(sectors, sector * SECTOR);
  }
  return bitmap.some((byte) => byte !== 0) ? Buffer.concat([bitmap, sectors]) : null;
}
