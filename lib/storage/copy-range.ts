import { systemCalls } from '../syscalls/calls.ts';
import { isUnsupported } from '../syscalls/libc.ts';

/** Bytes of one call: long enough to cost nothing, short enough that stopping is prompt. */
const STEP = 64 * 1024 * 1024;

/**
 * Copies inside the kernel, copy_file_range(2): bytes copied, fewer than `length` (even 0) where the file systems
 * do not go together or the input ends.
 */
export async function copyRange(
  files: { from: number; fromOffset: number; to: number; toOffset: number },
  length: number,
): Promise<number> {
  const calls = await systemCalls();
  let done = 0;
  while (calls !== null && done < length) {
    const step = Math.min(STEP, length - done);
    try {
      const count = await calls.copyFileRange(
        files.from,
        files.fromOffset + done,
        files.to,
        files.toOffset + done,
        step,
      );
      if (count === 0) break;
      done += count;
    } catch (error) {
      if (!isUnsupported(error)) throw error;
      break;
    }
  }
  return done;
}
