import { ensure, ImageError } from '../../core/errors.ts';
import { COMPRESSED_SECTOR } from './constants.ts';

/**
 * L1 and L2 entries ("L1 table", "L2 table entry", "Standard Cluster Descriptor", "Compressed
 * Clusters Descriptor"). A 64-bit entry is handled as two halves, `high` and `low`, unsigned 32-bit
 * each: numbers can't hold 64 bits, and BigInt is too slow for tables of a million entries.
 */

/** Bit 63: the cluster's refcount is exactly one, so that it may be written in place. */
export const COPIED_HIGH = 0x8000_0000;
/** Bit 62: the descriptor is that of a compressed cluster. */
export const COMPRESSED_HIGH = 0x4000_0000;
/** Bit 0: reads as zeros. v3 without extended L2 entries only. */
export const ZERO_LOW = 0x1;

/** Upper half of the bits that are a host offset, of L1 entries and of L2 entries that are not compressed. */
export const OFFSET_HIGH = 0x00ff_ffff;
/** Upper bits that a plain L2 entry, an offset and a copied flag, does not have: reserved ones, and that of compression. */
export const NOT_PLAIN_HIGH = 0x7f00_0000;
const OFFSET_LOW = 0xffff_fe00;
const L1_RESERVED_HIGH = 0x7f00_0000;
const L1_RESERVED_LOW = 0x0000_01ff;
const L2_RESERVED_HIGH = 0x3f00_0000;
const L2_RESERVED_LOW = 0x0000_01fe;
const HALF = 0x1_0000_0000;
/** Above it, an offset's high half no longer fits a number below 2^53. */
const MAX_HIGH = 0x1f_ffff;

/** Host offset of an L1 entry, or of an L2 entry that is not compressed: bits 9 to 55. 0: not allocated. */
export function entryOffset(high: number, low: number): number {
  return (high & OFFSET_HIGH) * HALF + ((low & OFFSET_LOW) >>> 0);
}

/** Upper half of an entry for `offset`, without flags. */
export function offsetHigh(offset: number): number {
  return Math.floor(offset / HALF);
}

/** Lower half of an entry for `offset`, without flags. */
export function offsetLow(offset: number): number {
  return offset % HALF;
}

/** Whether reserved bits are set, which makes an L1 entry invalid. */
export function l1Reserved(high: number, low: number): boolean {
  return (high & L1_RESERVED_HIGH) !== 0 || (low & L1_RESERVED_LOW) !== 0;
}

/** Whether reserved bits are set in an L2 entry that is not compressed. */
export function l2Reserved(high: number, low: number): boolean {
  return (high & L2_RESERVED_HIGH) !== 0 || (low & L2_RESERVED_LOW) !== 0;
}

export function isCopied(high: number): boolean {
  return high >>> 31 === 1;
}

export function isCompressed(high: number): boolean {
  return (high & COMPRESSED_HIGH) !== 0;
}

/** What an L1 entry says. */
export interface L1Entry {
  /** Host offset of the L2 table; 0: not allocated. */
  offset: number;
  copied: boolean;
}

/** The entry at byte `at` of an L1 table; reserved bits and unaligned tables are `corrupt`. */
export function decodeL1Entry(table: Buffer, at: number, clusterSize: number): L1Entry {
  const high = table.readUInt32BE(at);
  const low = table.readUInt32BE(at + 4);
  const offset = entryOffset(high, low);
  if (l1Reserved(high, low)) throw new ImageError('corrupt', 'An L1 entry has reserved bits set', { offset: at });
  if (offset % clusterSize !== 0 || offset > Number.MAX_SAFE_INTEGER) {
    throw new ImageError(
      'corrupt',
      `L2 table offset 0x${offset.toString(16)} unaligned (L1 index: 0x${(at / 8).toString(16)})`,
      { offset },
    );
  }
  return { offset, copied: isCopied(high) };
}

/** Writes an L1 entry, or a standard L2 entry (its first half with extended L2 entries). */
export function encodeEntry(table: Buffer, at: number, offset: number, flags: EntryFlags = {}): void {
  table.writeUInt32BE((offsetHigh(offset) | (flags.copied ? COPIED_HIGH : 0)) >>> 0, at);
  table.writeUInt32BE((offsetLow(offset) | (flags.zero ? ZERO_LOW : 0)) >>> 0, at + 4);
}

export interface EntryFlags {
  copied?: boolean;
  /** Never with extended L2 entries, where the bitmap says it. */
  zero?: boolean;
}

/** Where a compressed cluster lies. */
export interface CompressedDescriptor {
  /** Host offset of the first byte, not aligned. */
  offset: number;
  /**
   * Bytes that may belong to it: up to the end of its last sector. The stream inside ends earlier,
   * by less than a sector; the rest belongs to others.
   */
  length: number;
}

/** Decodes a compressed descriptor; the split between offset and sectors follows from the cluster size. */
export function decodeCompressed(high: number, low: number, clusterBits: number): CompressedDescriptor {
  const shift = sectorShift(clusterBits);
  const offsetPart = high & (2 ** shift - 1);
  ensure(offsetPart <= MAX_HIGH, 'A compressed cluster lies farther than any file reaches');
  const offset = offsetPart * HALF + low;
  const sectors = ((high & ~(COPIED_HIGH | COMPRESSED_HIGH)) >>> shift) + 1;
  return { offset, length: sectors * COMPRESSED_SECTOR - (offset % COMPRESSED_SECTOR) };
}

/**
 * Writes a compressed descriptor. The copied flag is never set.
 * @param packedLength bytes of the compressed stream
 */
export function encodeCompressed(
  table: Buffer,
  at: number,
  { offset, packedLength, clusterBits }: { offset: number; packedLength: number; clusterBits: number },
): void {
  const first = Math.floor(offset / COMPRESSED_SECTOR);
  const sectors = Math.floor((offset + packedLength - 1) / COMPRESSED_SECTOR) - first;
  table.writeUInt32BE((COMPRESSED_HIGH | (sectors * 2 ** sectorShift(clusterBits)) | offsetHigh(offset)) >>> 0, at);
  table.writeUInt32BE(offsetLow(offset), at + 4);
}

/** Host offsets of compressed clusters must lie below this, so that the descriptor can hold them. */
export function maxCompressedOffset(clusterBits: number): number {
  return Math.min(2 ** (sectorShift(clusterBits) + 32), Number.MAX_SAFE_INTEGER);
}

/** Bit of the high half at which the sector count begins: x - 32 with x = 62 - (cluster_bits - 8). */
function sectorShift(clusterBits: number): number {
  return 62 - (clusterBits - 8) - 32;
}
