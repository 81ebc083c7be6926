import { ensure, ImageError } from '../../core/errors.ts';

/**
 * Refcount table and blocks ("Host cluster management"). Entries narrower than a byte are packed
 * from the low bits of each byte up; wider ones are big-endian.
 */

const TABLE_RESERVED_LOW = 0x1ff;

/** Host offset of the refcount block at entry `index` of the table; 0: not allocated, all zero. */
export function decodeRefcountTableEntry(table: Buffer, index: number, clusterSize: number): number {
  const low = table.readUInt32BE(index * 8 + 4);
  const offset = table.readUInt32BE(index * 8) * 0x1_0000_0000 + (low - (low & TABLE_RESERVED_LOW));
  if (offset > Number.MAX_SAFE_INTEGER || offset % clusterSize !== 0) {
    const where = `0x${offset.toString(16)} unaligned (reftable index: 0x${index.toString(16)})`;
    throw new ImageError('corrupt', `Refblock offset ${where}`, { offset });
  }
  return offset;
}

/** The largest refcount of the given width that is kept exactly; 64 bits are cut to 2^53 - 1. */
export function maxRefcount(bits: number): number {
  return bits >= 53 ? Number.MAX_SAFE_INTEGER : 2 ** bits - 1;
}

/** The refcount at `index` of a block; a 64-bit one beyond 2^53 is `corrupt`: no file has so many references. */
export function readRefcount(block: Buffer, index: number, bits: number): number {
  switch (bits) {
    case 16:
      return block.readUInt16BE(index * 2);
    case 8:
      return block[index];
    case 32:
      return block.readUInt32BE(index * 4);
    case 64: {
      const value = block.readUInt32BE(index * 8) * 0x1_0000_0000 + block.readUInt32BE(index * 8 + 4);
      ensure(value <= Number.MAX_SAFE_INTEGER, 'A reference count is larger than any file can justify');
      return value;
    }
    default: {
      const bit = index * bits;
      return (block[bit >> 3] >> (bit & 7)) & (2 ** bits - 1);
    }
  }
}

/** Sets the refcount at `index`; the caller has checked it against `maxRefcount`. */
export function writeRefcount(block: Buffer, index: number, bits: number, value: number): void {
  switch (bits) {
    case 16:
      block.writeUInt16BE(value, index * 2);
      break;
    case 8:
      block[index] = value;
      break;
    case 32:
      block.writeUInt32BE(value, index * 4);
      break;
    case 64:
      block.writeUInt32BE(Math.floor(value / 0x1_0000_0000), index * 8);
      block.writeUInt32BE(value % 0x1_0000_0000, index * 8 + 4);
      break;
    default: {
      const bit = index * bits;
      const mask = (2 ** bits - 1) << (bit & 7);
      block[bit >> 3] = (block[bit >> 3] & ~mask) | (value << (bit & 7));
    }
  }
}

/** How many refcounts from `index` on, `most` at most, equal the one there. */
export function sameRefcounts(block: Buffer, index: number, most: number, bits: number): number {
  let same = 1;
  if (bits === 16) {
    const high = block[index * 2];
    const low = block[index * 2 + 1];
    let at = index * 2 + 2;
    for (; same < most && block[at] === high && block[at + 1] === low; same += 1) at += 2;
    return same;
  }
  const count = readRefcount(block, index, bits);
  while (same < most && readRefcount(block, index + same, bits) === count) same += 1;
  return same;
}

/** Sets `entries` refcounts from `index` on. */
export function fillRefcounts(
  block: Buffer,
  { index, entries, bits, value }: { index: number; entries: number; bits: number; value: number },
): void {
  if (bits !== 16) {
    for (let at = index; at < index + entries; at += 1) writeRefcount(block, at, bits, value);
    return;
  }
  const high = value >>> 8;
  const low = value & 0xff;
  for (let at = index * 2; at < (index + entries) * 2; at += 2) {
    block[at] = high;
    block[at + 1] = low;
  }
}
