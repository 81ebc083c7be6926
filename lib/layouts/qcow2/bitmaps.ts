import { alignUp, readU64BE, writeU64BE } from '../../core/binary.ts';
import { ensure } from '../../core/errors.ts';
import {
  MAX_BITMAP_GRANULARITY_BITS,
  MAX_BITMAP_NAME,
  MAX_BITMAP_TABLE_ENTRIES,
  MIN_BITMAP_GRANULARITY_BITS,
} from './constants.ts';

/** An entry of the bitmap directory ("Bitmaps extension", "Bitmap directory"). */
export interface BitmapDirectoryEntry {
  tableOffset: number;
  tableEntries: number;
  /** Was not saved properly; what it says can't be relied on. */
  inUse: boolean;
  /** Records writes from now on. */
  auto: boolean;
  /** Whoever does not know the extra data may still use the bitmap. */
  extraCompatible: boolean;
  /** Guest bytes of one bit, as a power of two. */
  granularityBits: number;
  name: string;
  extra: Buffer;
}

const FIXED = 24;
const At = {
  tableOffset: 0,
  tableEntries: 8,
  flags: 12,
  type: 16,
  granularity: 17,
  nameLength: 18,
  extra: 20,
} as const;
const Flag = { inUse: 1, auto: 2, extraCompatible: 4 } as const;
const KNOWN_FLAGS = 7;
/** The only type there is. */
const DIRTY_TRACKING = 1;

/** Decodes the whole directory, whose length and count the header extension tells. */
export function decodeBitmapDirectory(directory: Buffer, count: number): BitmapDirectoryEntry[] {
  const entries: BitmapDirectoryEntry[] = [];
  let at = 0;
  while (at < directory.length) {
    ensure(at + FIXED <= directory.length, 'Broken bitmap directory', { offset: at });
    const length = entryLength(directory, at);
    ensure(at + length <= directory.length, 'Broken bitmap directory', { offset: at });
    entries.push(decodeEntry(directory, at));
    at += length;
    ensure(entries.length <= count, 'More bitmaps found than specified in header extension', { offset: at });
  }
  ensure(entries.length === count, 'Less bitmaps found than specified in header extension');
  return entries;
}

function entryLength(directory: Buffer, at: number): number {
  return alignUp(FIXED + directory.readUInt32BE(at + At.extra) + directory.readUInt16BE(at + At.nameLength), 8);
}

function decodeEntry(directory: Buffer, at: number): BitmapDirectoryEntry {
  const flags = directory.readUInt32BE(at + At.flags);
  const granularityBits = directory[at + At.granularity];
  const nameLength = directory.readUInt16BE(at + At.nameLength);
  const extraLength = directory.readUInt32BE(at + At.extra);
  const tableEntries = directory.readUInt32BE(at + At.tableEntries);
  const nameAt = at + FIXED + extraLength;
  const name = directory.toString('utf8', nameAt, nameAt + nameLength);
  const broken = `Bitmap '${name}' doesn't satisfy the constraints`;
  ensure(directory[at + At.type] === DIRTY_TRACKING && (flags & ~KNOWN_FLAGS) === 0, broken, { offset: at });
  ensure(nameLength > 0 && nameLength <= MAX_BITMAP_NAME, broken, { offset: at });
  ensure(granularityBits >= MIN_BITMAP_GRANULARITY_BITS && granularityBits <= MAX_BITMAP_GRANULARITY_BITS, broken, {
    offset: at,
  });
  ensure(tableEntries <= MAX_BITMAP_TABLE_ENTRIES, broken, { offset: at });
  return {
    tableOffset: readU64BE(directory, at + At.tableOffset, "A bitmap's table offset"),
    tableEntries,
    inUse: (flags & Flag.inUse) !== 0,
    auto: (flags & Flag.auto) !== 0,
    extraCompatible: (flags & Flag.extraCompatible) !== 0,
    granularityBits,
    name,
    extra: Buffer.from(directory.subarray(at + FIXED, nameAt)),
  };
}

export function encodeBitmapDirectory(entries: readonly BitmapDirectoryEntry[]): Buffer {
  return Buffer.concat(entries.map(encodeDirectoryEntry));
}

function encodeDirectoryEntry(entry: BitmapDirectoryEntry): Buffer {
  const name = Buffer.from(entry.name, 'utf8');
  const bytes = Buffer.alloc(alignUp(FIXED + entry.extra.length + name.length, 8));
  writeU64BE(bytes, At.tableOffset, entry.tableOffset);
  bytes.writeUInt32BE(entry.tableEntries, At.tableEntries);
  const flags =
    (entry.inUse ? Flag.inUse : 0) | (entry.auto ? Flag.auto : 0) | (entry.extraCompatible ? Flag.extraCompatible : 0);
  bytes.writeUInt32BE(flags, At.flags);
  bytes[At.type] = DIRTY_TRACKING;
  bytes[At.granularity] = entry.granularityBits;
  bytes.writeUInt16BE(name.length, At.nameLength);
  bytes.writeUInt32BE(entry.extra.length, At.extra);
  entry.extra.copy(bytes, FIXED);
  name.copy(bytes, FIXED + entry.extra.length);
  return bytes;
}

/** A bitmap table entry ("Bitmap table"): a data cluster, or all zeros or all ones without one. */
export interface BitmapTableEntry {
  /** Host offset of the data cluster; 0: none. */
  offset: number;
  /** Without a cluster: every bit is set. */
  allOnes: boolean;
}

export function decodeBitmapTableEntry(table: Buffer, index: number, clusterSize: number): BitmapTableEntry {
  const high = table.readUInt32BE(index * 8);
  const low = table.readUInt32BE(index * 8 + 4);
  const offset = (high & 0x00ff_ffff) * 0x1_0000_0000 + ((low & 0xffff_fe00) >>> 0);
  const allOnes = (low & 1) === 1;
  const valid =
    (high & 0xff00_0000) === 0 &&
    (low & 0x1fe) === 0 &&
    (offset === 0 || (!allOnes && offset % clusterSize === 0 && offset <= Number.MAX_SAFE_INTEGER));
  ensure(valid, 'A bitmap table entry is invalid', { offset: index * 8 });
  return { offset, allOnes };
}

export function encodeBitmapTableEntry(table: Buffer, index: number, entry: BitmapTableEntry): void {
  writeU64BE(table, index * 8, entry.offset + (entry.allOnes ? 1 : 0));
}

/** What follows from a disk's size for a bitmap: bits are stored a cluster at a time. */
export interface BitmapShape {
  bits: number;
  /** Bits in one cluster of bitmap data. */
  bitsPerCluster: number;
  tableEntries: number;
}

/** @param size guest bytes */
export function bitmapShape(size: number, granularityBits: number, clusterSize: number): BitmapShape {
  const bits = Math.ceil(size / 2 ** granularityBits);
  const bitsPerCluster = clusterSize * 8;
  return { bits, bitsPerCluster, tableEntries: Math.ceil(bits / bitsPerCluster) };
}

/** Runs [from, to) of set bits among the first `count`, ascending. Bit 0 is the lowest of byte 0 ("Bitmap data"). */
export function* bitRuns(bytes: Buffer, count: number): Generator<{ from: number; to: number }> {
  for (let at = nextBit(bytes, 0, count, 1); at < count; ) {
    const to = nextBit(bytes, at, count, 0);
    yield { from: at, to };
    at = nextBit(bytes, to, count, 1);
  }
}

/** The first bit from `at` on that has the value; `count` where there is none. Whole bytes are passed over at once. */
function nextBit(bytes: Buffer, at: number, count: number, value: 0 | 1): number {
  const other = value === 1 ? 0 : 0xff;
  let bit = at;
  while (bit < count) {
    if ((bit & 7) === 0 && bytes[bit >>> 3] === other) bit += 8;
    else if (((bytes[bit >>> 3] >>> (bit & 7)) & 1) === value) return bit;
    else bit += 1;
  }
  return count;
}

/** Sets bits [from, to). */
export function setBits(bytes: Buffer, from: number, to: number): void {
  fillBits(bytes, from, to, true);
}

/** Clears bits [from, to). */
export function clearBits(bytes: Buffer, from: number, to: number): void {
  fillBits(bytes, from, to, false);
}

function fillBits(bytes: Buffer, from: number, to: number, value: boolean): void {
  let bit = from;
  for (; bit < to && (bit & 7) !== 0; bit += 1) putBit(bytes, bit, value);
  const whole = Math.floor((to - bit) / 8);
  if (whole > 0) bytes.fill(value ? 0xff : 0, bit >>> 3, (bit >>> 3) + whole);
  for (bit += Math.max(0, whole) * 8; bit < to; bit += 1) putBit(bytes, bit, value);
}

function putBit(bytes: Buffer, bit: number, value: boolean): void {
  if (value) bytes[bit >>> 3] |= 1 << (bit & 7);
  else bytes[bit >>> 3] &= ~(1 << (bit & 7));
}
