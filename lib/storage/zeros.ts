import { isZero, zeroBlock } from '../core/pool.ts';
import type { PositionedIo } from './buffered.ts';

/** Bytes of one write. */
const BATCH = 1024 * 1024;
/** What file systems allocate at once, or less. */
const BLOCK = 4096;

/** Writes zeros, the portable way to make a range read so. */
export async function writeZeros(io: PositionedIo, offset: number, length: number): Promise<void> {
  const block = zeroBlock();
  const end = offset + length;
  for (let at = offset; at < end; ) {
    const stop = Math.min(end, at + BATCH);
    const blocks: Buffer[] = [];
    for (let from = at; from < stop; from += block.length) {
      blocks.push(block.subarray(0, Math.min(block.length, stop - from)));
    }
    await io.writev(blocks, at);
    at = stop;
  }
}

/**
 * Gives space to the holes of a range by writing zeros where zeros are read already, and beyond the file's end
 * (`size`). What others write to the range meanwhile may be lost.
 */
export async function allocateByWriting(io: PositionedIo, offset: number, length: number, size: number): Promise<void> {
  const end = offset + length;
  const inside = Math.max(offset, Math.min(end, size));
  const buffer = Buffer.allocUnsafeSlow(Math.min(BATCH, inside - offset));
  for (let at = offset; at < inside; at += BATCH) {
    const part = buffer.subarray(0, Math.min(BATCH, inside - at));
    await io.read(part, at);
    await rewriteZeros(io, part, at);
  }
  if (end > inside) await writeZeros(io, inside, end - inside);
}

/** Writes the runs of zero blocks in `part`, which was read at `position`. */
async function rewriteZeros(io: PositionedIo, part: Buffer, position: number): Promise<void> {
  for (let at = 0; at < part.length; ) {
    let end = at;
    while (end < part.length && isZero(part, end, Math.min(part.length, end + BLOCK))) end += BLOCK;
    end = Math.min(end, part.length);
    if (end > at) await writeZeros(io, position + at, end - at);
    at = end + BLOCK;
  }
}
