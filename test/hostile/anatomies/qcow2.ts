import type { Field, Region } from '../../support/mutate.ts';
import type { Anatomy } from '../anatomy.ts';

const OFFSET_MASK = 0x00ff_ffff_ffff_fe00n;
/** Entries of each table that get mutations of their own; random ones reach the rest. */
const ENTRIES = 4;

const HEADER_FIELDS: readonly (readonly [string, number, Field['width']])[] = [
  ['magic', 0, 4],
  ['version', 4, 4],
  ['backing_file_offset', 8, 8],
  ['backing_file_size', 16, 4],
  ['cluster_bits', 20, 4],
  ['size', 24, 8],
  ['crypt_method', 32, 4],
  ['l1_size', 36, 4],
  ['l1_table_offset', 40, 8],
  ['refcount_table_offset', 48, 8],
  ['refcount_table_clusters', 56, 4],
  ['nb_snapshots', 60, 4],
  ['snapshots_offset', 64, 8],
];

const V3_FIELDS: readonly (readonly [string, number, Field['width']])[] = [
  ['incompatible_features', 72, 8],
  ['compatible_features', 80, 8],
  ['autoclear_features', 88, 8],
  ['refcount_order', 96, 4],
  ['header_length', 100, 4],
  ['compression_type', 104, 1],
];

/** qcow2.txt, all of it. */
export function qcow2Anatomy(bytes: Buffer): Anatomy {
  const version = bytes.readUInt32BE(4);
  const clusterSize = 2 ** bytes.readUInt32BE(20);
  const named = version === 3 ? [...HEADER_FIELDS, ...V3_FIELDS] : HEADER_FIELDS;
  const anatomy: Anatomy = {
    unit: clusterSize,
    fields: named.map(([name, offset, width]) => ({ name, offset, width })),
    regions: [{ name: 'header', offset: 0, length: version === 3 ? 112 : 72 }],
    places: [0n, BigInt(clusterSize), BigInt(bytes.length), BigInt(bytes.length - (bytes.length % clusterSize))],
    cuts: [0, 1, 3, 4, 7, 8, 24, 71, 72, 73, 103, 104, 105, 111, 112, 511, 512],
  };
  addExtensions(bytes, anatomy, version === 3 ? bytes.readUInt32BE(100) : 72);
  addL1(bytes, anatomy, 'L1', offsetAt(bytes, 40), bytes.readUInt32BE(36));
  addRefcounts(bytes, anatomy);
  addSnapshots(bytes, anatomy);
  return anatomy;
}

function offsetAt(bytes: Buffer, at: number): number {
  return Number(bytes.readBigUInt64BE(at) & OFFSET_MASK);
}

function addTable(anatomy: Anatomy, table: Region, width: Field['width'], indexes: readonly number[]): void {
  anatomy.regions.push(table);
  anatomy.places.push(BigInt(table.offset));
  for (const index of indexes) {
    anatomy.fields.push({ name: `${table.name}[${index}]`, offset: table.offset + index * width, width });
  }
}

/** Indexes of the first entries that are used, and of the first one that isn't. */
function interesting(bytes: Buffer, offset: number, count: number, step = 1): number[] {
  const used: number[] = [];
  let unused = -1;
  for (let index = 0; index < count; index += step) {
    if (bytes.readBigUInt64BE(offset + index * 8) === 0n) {
      if (unused < 0) unused = index;
    } else if (used.length < ENTRIES) {
      used.push(index);
    }
  }
  return unused < 0 ? used : [...used, unused];
}

function addExtensions(bytes: Buffer, anatomy: Anatomy, start: number): void {
  for (let at = start; at + 8 <= anatomy.unit; ) {
    const length = bytes.readUInt32BE(at + 4);
    const type = bytes.readUInt32BE(at);
    const name = `extension ${type.toString(16)}`;
    anatomy.fields.push({ name: `${name} type`, offset: at, width: 4 });
    anatomy.fields.push({ name: `${name} length`, offset: at + 4, width: 4 });
    anatomy.regions.push({ name, offset: at, length: 8 + length });
    if (type === 0) return;
    if (type === 0x23852875) addBitmaps(bytes, anatomy, at + 8);
    at += 8 + Math.ceil(length / 8) * 8;
  }
}

function addBitmaps(bytes: Buffer, anatomy: Anatomy, at: number): void {
  anatomy.fields.push({ name: 'nb_bitmaps', offset: at, width: 4 });
  anatomy.fields.push({ name: 'bitmaps reserved', offset: at + 4, width: 4 });
  anatomy.fields.push({ name: 'bitmap_directory_size', offset: at + 8, width: 8 });
  anatomy.fields.push({ name: 'bitmap_directory_offset', offset: at + 16, width: 8 });
  const directory = offsetAt(bytes, at + 16);
  const length = Number(bytes.readBigUInt64BE(at + 8));
  anatomy.regions.push({ name: 'bitmap directory', offset: directory, length });
  anatomy.places.push(BigInt(directory));
  const parts = [
    ['table offset', 0, 8],
    ['table size', 8, 4],
    ['flags', 12, 4],
    ['type', 16, 1],
    ['granularity', 17, 1],
    ['name size', 18, 2],
    ['extra size', 20, 4],
  ] as const;
  for (const [name, offset, width] of parts) {
    anatomy.fields.push({ name: `bitmap ${name}`, offset: directory + offset, width });
  }
  const table = {
    name: 'bitmap table',
    offset: offsetAt(bytes, directory),
    length: 8 * bytes.readUInt32BE(directory + 8),
  };
  addTable(anatomy, table, 8, [0]);
}

function addL1(bytes: Buffer, anatomy: Anatomy, name: string, offset: number, count: number): void {
  if (count === 0) return;
  const used = interesting(bytes, offset, count);
  addTable(anatomy, { name, offset, length: count * 8 }, 8, used);
  const tables = used.map((index) => offsetAt(bytes, offset + index * 8)).filter((table) => table !== 0);
  for (const table of tables.slice(0, 2)) addL2(bytes, anatomy, `L2 of ${name} at ${table}`, table);
}

function addL2(bytes: Buffer, anatomy: Anatomy, name: string, offset: number): void {
  const extended = (bytes.readUInt32BE(4) === 3 ? bytes.readBigUInt64BE(72) & 16n : 0n) !== 0n;
  const indexes = interesting(bytes, offset, anatomy.unit / 8, extended ? 2 : 1);
  const all = extended ? indexes.flatMap((index) => [index, index + 1]) : indexes;
  addTable(anatomy, { name, offset, length: anatomy.unit }, 8, all);
}

function addRefcounts(bytes: Buffer, anatomy: Anatomy): void {
  const offset = offsetAt(bytes, 48);
  const count = (bytes.readUInt32BE(56) * anatomy.unit) / 8;
  const indexes = interesting(bytes, offset, count);
  addTable(anatomy, { name: 'refcount table', offset, length: count * 8 }, 8, indexes);
  const block = offsetAt(bytes, offset);
  addTable(anatomy, { name: 'refcount block', offset: block, length: anatomy.unit }, 8, [0, 1]);
}

function addSnapshots(bytes: Buffer, anatomy: Anatomy): void {
  let at = offsetAt(bytes, 64);
  const first = at;
  for (let index = 0; index < bytes.readUInt32BE(60); index += 1) {
    const name = `snapshot ${index}`;
    const parts = [
      ['L1 offset', 0, 8],
      ['L1 size', 8, 4],
      ['id length', 12, 2],
      ['name length', 14, 2],
      ['date', 16, 4],
      ['nanoseconds', 20, 4],
      ['clock', 24, 8],
      ['state size', 32, 4],
      ['extra length', 36, 4],
      ['large state size', 40, 8],
      ['disk size', 48, 8],
    ] as const;
    for (const [part, offset, width] of parts) {
      anatomy.fields.push({ name: `${name} ${part}`, offset: at + offset, width });
    }
    addL1(bytes, anatomy, `${name} L1`, offsetAt(bytes, at), bytes.readUInt32BE(at + 8));
    const lengths = bytes.readUInt32BE(at + 36) + bytes.readUInt16BE(at + 12) + bytes.readUInt16BE(at + 14);
    at += Math.ceil((40 + lengths) / 8) * 8;
  }
  if (at > first) anatomy.regions.push({ name: 'snapshot table', offset: first, length: at - first });
}
