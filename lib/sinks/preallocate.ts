import { zeroBlock } from '../core/pool.ts';
import type { Storage } from '../storage/storage.ts';

export type FilePreallocation = 'off' | 'falloc' | 'full';

/** Buffers of zeros in one write: a megabyte. */
const ZERO_BATCH = 16;

/** Gives a range of a file its space: reserved by the file system, or written full of zeros. Grows the file. */
export async function preallocate(
  storage: Storage,
  offset: number,
  length: number,
  mode: FilePreallocation,
): Promise<void> {
  if (length <= 0 || mode === 'off') return;
  if (mode === 'falloc') return storage.allocate(offset, length);
  const block = zeroBlock();
  const zeros = Array.from({ length: ZERO_BATCH }, () => block);
  const batch = ZERO_BATCH * block.length;
  let at = offset;
  for (; at + batch <= offset + length; at += batch) await storage.writev(at, zeros);
  for (; at < offset + length; at += block.length) {
    await storage.write(at, block.subarray(0, Math.min(block.length, offset + length - at)));
  }
}
