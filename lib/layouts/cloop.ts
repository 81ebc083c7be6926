import { readU64BE } from '../core/binary.ts';
import { ensure } from '../core/errors.ts';

/**
 * The compressed loop image, version 2 (cloop's compressed_loop.h, `struct cloop_head`): a script of 128 bytes, two
 * numbers, an offset for each block and one for the end of the last, and the blocks: zlib streams, one after
 * the other. All big-endian.
 */
export const CLOOP_OFFSETS_AT = 136;

const BLOCK_SIZE_AT = 128;
const BLOCKS_AT = 132;

/** How the script begins that makes the file mount itself. */
const MAGIC = Buffer.from(
  '#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n',
  'latin1',
);

/** Bounds as QEMU sets them. */
const SECTOR = 512;
const MAX_BLOCK_MIB = 64;
const MAX_BLOCK_BYTES = MAX_BLOCK_MIB * 1024 * 1024;
const MAX_BLOCKS = 0xffff_ffff / 8;
const MAX_TABLE_BYTES = 512 * 1024 * 1024;
/** A stream of noise is a little longer than its contents; nothing makes it twice as long. */
const MAX_PACKED_BYTES = 2 * MAX_BLOCK_BYTES;

export interface CloopHeader {
  /** Guest bytes of a block. */
  blockSize: number;
  blocks: number;
}

export function isCloop(head: Buffer): boolean {
  return head.length >= MAGIC.length && head.compare(MAGIC, 0, MAGIC.length, 0, MAGIC.length) === 0;
}

/** Decodes and checks the header, in QEMU's words. Its script is not looked at: some makers have their own. */
export function decodeCloopHeader(head: Buffer): CloopHeader {
  const blockSize = head.readUInt32BE(BLOCK_SIZE_AT);
  const sized = { offset: BLOCK_SIZE_AT };
  ensure(blockSize !== 0, 'block_size cannot be zero', sized);
  ensure(blockSize % SECTOR === 0, `block_size ${blockSize} must be a multiple of 512`, sized);
  ensure(blockSize <= MAX_BLOCK_BYTES, `block_size ${blockSize} must be ${MAX_BLOCK_MIB} MB or less`, sized);
  const blocks = head.readUInt32BE(BLOCKS_AT);
  const counted = { offset: BLOCKS_AT };
  const most = Math.floor(MAX_BLOCKS);
  ensure(blocks <= most, `n_blocks ${blocks} must be ${most} or less`, counted);
  const tableBytes = (blocks + 1) * 8;
  ensure(tableBytes <= MAX_TABLE_BYTES, 'image requires too many offsets, try increasing block size', counted);
  return { blockSize, blocks };
}

/**
 * Checks entries of the offsets table: `table` holds those from `first` on, and `previous` is the one before them (0 for
 * the first). Returns the last one.
 */
export function checkCloopOffsets(table: Buffer, first: number, previous: number): number {
  let last = previous;
  for (let at = 0; at < table.length; at += 8) {
    const index = first + at / 8;
    const where = { offset: CLOOP_OFFSETS_AT + index * 8 };
    const tooFar = `invalid compressed block size at index ${index}, image file is corrupt`;
    // Past 2^53, so past any block that could end there.
    ensure(table.readUInt32BE(at) < 2 ** 21, tooFar, where);
    const offset = cloopOffset(table, at);
    if (index > 0) {
      const order = `offsets not monotonically increasing at index ${index}, image file is corrupt`;
      ensure(offset >= last, order, where);
      ensure(offset - last <= MAX_PACKED_BYTES, tooFar, where);
    }
    last = offset;
  }
  return last;
}

/** The offset that stands at `at` in a part of the table. */
export function cloopOffset(table: Buffer, at: number): number {
  return readU64BE(table, at, 'The offset of a block');
}
