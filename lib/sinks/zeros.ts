import { zeroBlock } from '../core/pool.ts';
import type { Storage } from '../storage/storage.ts';

export interface GuestRange {
  start: number;
  end: number;
}

/** Writes zeros as if they were data, a block at a time. */
export async function writeZeros(
  { start, end }: GuestRange,
  write: (offset: number, bytes: Buffer) => Promise<void>,
): Promise<void> {
  const zeros = zeroBlock();
  for (let at = start; at < end; at += zeros.length) {
    await write(at, zeros.subarray(0, Math.min(zeros.length, end - at)));
  }
}

/** A file that ends within a cluster ends too early for its readers: the zeros that were not written must be there. */
export async function growTo(storage: Storage, end: number): Promise<void> {
  if (storage.size < end && !storage.fixedSize) await storage.zero(end - 1, 1);
}
