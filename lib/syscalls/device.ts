import { readFileSync } from 'node:fs';
import { type SystemCalls, systemCalls } from './calls.ts';
import { isUnsupported } from './libc.ts';

// Linux <linux/fs.h>. BLKGETSIZE64 carries the size of a size_t; the others carry none.
const BLKDISCARD = 0x1277;
const BLKZEROOUT = 0x127f;

/** Device requests count in sectors of this size: ranges must be multiples of it. */
export const SECTOR = 512;

/**
 * Size in bytes of an open block device; null where it can't be told. `id` is `rdev` of its stat. Linux tells it
 * in sysfs, which costs less than loading the system calls; lseek(2) to the end tells it elsewhere.
 */
export async function deviceSize(fd: number, id: number): Promise<number | null> {
  const size = sysfsSize(id);
  if (size !== null) return size;
  const calls = await systemCalls();
  if (calls === null) return null;
  try {
    return calls.seekEnd(fd);
  } catch (error) {
    if (!isUnsupported(error)) throw error;
    return null;
  }
}

/** Linux tells the number of 512-byte sectors in a file of sysfs. `id` packs major and minor as makedev(3) does. */
function sysfsSize(id: number): number | null {
  const wide = BigInt(id);
  const major = Number(((wide >> 8n) & 0xfffn) | ((wide >> 32n) & 0xfffff000n));
  const minor = Number((wide & 0xffn) | ((wide >> 12n) & 0xffffff00n));
  try {
    const sectors = Number(readFileSync(`/sys/dev/block/${major}:${minor}/size`, 'utf8'));
    return Number.isSafeInteger(sectors * SECTOR) ? sectors * SECTOR : null;
  } catch {
    return null;
  }
}

/** Makes the device zero a range, in multiples of `SECTOR`. */
export function deviceZero(calls: SystemCalls, fd: number, offset: number, length: number): Promise<void> {
  return calls.ioctl(fd, BLKZEROOUT, rangeArgument(offset, length));
}

/** Tells the device that a range is not needed, in multiples of `SECTOR`. */
export function deviceDiscard(calls: SystemCalls, fd: number, offset: number, length: number): Promise<void> {
  return calls.ioctl(fd, BLKDISCARD, rangeArgument(offset, length));
}

/** The `uint64_t[2]` of the two requests, in the machine's byte order. */
function rangeArgument(offset: number, length: number): Buffer {
  const range = new BigUint64Array([BigInt(offset), BigInt(length)]);
  return Buffer.from(range.buffer);
}
