import { type Anatomy, AnatomyBuilder, type FieldSpec } from '../anatomy.ts';

const KIB = 1024;
const HEADERS = [64 * KIB, 128 * KIB];
const REGION_TABLES = [192 * KIB, 256 * KIB];
const HEADER_BYTES = 4 * KIB;
const REGION_TABLE_BYTES = 64 * KIB;
/** GUIDs by their first four bytes, little-endian. */
const BAT = 0x2dc27766;
const METADATA = 0x8b7ca206;

const HEADER_FIELDS: readonly FieldSpec[] = [
  ['signature', 0, 4],
  ['checksum', 4, 4],
  ['sequence number', 8, 8],
  ['log GUID', 48, 8],
  ['log GUID, second half', 56, 8],
  ['log version', 64, 2],
  ['version', 66, 2],
  ['log length', 68, 4],
  ['log offset', 72, 8],
];

/** MS-VHDX: little-endian headers, region tables, metadata and block table. */
export function vhdxAnatomy(bytes: Buffer): Anatomy {
  const anatomy = new AnatomyBuilder(bytes, { unit: 256 * KIB, order: 'little' });
  anatomy.structure({ name: 'file type', offset: 0, length: 8 }, [['signature', 0, 8]]);
  for (const offset of HEADERS) {
    anatomy.structure({ name: `header at ${offset}`, offset, length: 80 }, HEADER_FIELDS);
  }
  for (const offset of REGION_TABLES) addRegionTable(anatomy, offset);
  for (let index = 0; index < bytes.readUInt32LE(REGION_TABLES[0] + 8); index += 1) {
    const entry = REGION_TABLES[0] + 16 + 32 * index;
    const region = { offset: anatomy.number(entry + 16, 8), length: anatomy.number(entry + 24, 4) };
    const guid = bytes.readUInt32LE(entry);
    if (guid === BAT) anatomy.table({ name: 'BAT', ...region, length: Math.min(region.length, 4096) }, 8);
    if (guid === METADATA) addMetadata(anatomy, region.offset);
  }
  // Offsets with each state of a block, which stands in the lowest bits.
  anatomy.places.push(...[0n, 1n, 2n, 3n, 5n, 6n, 7n].map((state) => BigInt(1024 * KIB) + state));
  anatomy.seal = seal;
  return anatomy;
}

function addRegionTable(anatomy: AnatomyBuilder, offset: number): void {
  const entries = [0, 1].flatMap((index): FieldSpec[] => {
    const at = 16 + 32 * index;
    return [
      [`GUID ${index}`, at, 4],
      [`offset ${index}`, at + 16, 8],
      [`length ${index}`, at + 24, 4],
      [`required ${index}`, at + 28, 4],
    ];
  });
  anatomy.structure({ name: `region table at ${offset}`, offset, length: 80 }, [
    ['signature', 0, 4],
    ['checksum', 4, 4],
    ['entries', 8, 4],
    ...entries,
  ]);
}

function addMetadata(anatomy: AnatomyBuilder, offset: number): void {
  const count = anatomy.number(offset + 10, 2);
  anatomy.structure({ name: 'metadata table', offset, length: 32 + 32 * count }, [
    ['signature', 0, 8],
    ['entries', 10, 2],
  ]);
  for (let index = 0; index < count; index += 1) {
    const entry = offset + 32 + 32 * index;
    const item = {
      name: `metadata item ${index}`,
      offset: offset + anatomy.number(entry + 16, 4),
      length: anatomy.number(entry + 20, 4),
    };
    anatomy.structure({ name: `metadata entry ${index}`, offset: entry, length: 32 }, [
      ['GUID', 0, 4],
      ['offset', 16, 4],
      ['length', 20, 4],
      ['flags', 24, 4],
    ]);
    anatomy.structure(item, item.length >= 8 ? [['value', 0, 8]] : [['value', 0, 4]]);
  }
}

/** Headers and region tables carry a CRC-32C each. */
function seal(bytes: Buffer): void {
  for (const offset of HEADERS) putChecksum(bytes, offset, HEADER_BYTES);
  for (const offset of REGION_TABLES) putChecksum(bytes, offset, REGION_TABLE_BYTES);
}

function putChecksum(bytes: Buffer, offset: number, length: number): void {
  if (offset + length > bytes.length) return;
  bytes.writeUInt32LE(0, offset + 4);
  bytes.writeUInt32LE(crc32c(bytes.subarray(offset, offset + length)), offset + 4);
}

/** Castagnoli's polynomial, reflected. */
const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit += 1) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

function crc32c(bytes: Buffer): number {
  let crc = 0xffff_ffff;
  for (const byte of bytes) crc = TABLE[(crc ^ byte) & 0xff] ^ (crc >>> 8);
  return ~crc >>> 0;
}
