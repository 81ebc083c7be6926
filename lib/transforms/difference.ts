import { isZero } from '../core/pool.ts';

const SECTOR = 512;

/**
 * Offset in two equally long contents of the first 512-byte sector (counted from their start) that
 * differs, or -1. Null stands for zeros.
 */
export function firstDifference(left: Buffer | null, right: Buffer | null): number {
  if (left === null || right === null) return firstNonZero(left ?? right);
  if (left.equals(right)) return -1;
  return search(left.length, (start, end) => left.compare(right, start, end, start, end) === 0);
}

function firstNonZero(content: Buffer | null): number {
  if (content === null || isZero(content)) return -1;
  return search(content.length, (start, end) => isZero(content, start, end));
}

function search(length: number, same: (start: number, end: number) => boolean): number {
  for (let at = 0; at < length; at += SECTOR) if (!same(at, Math.min(length, at + SECTOR))) return at;
  return -1;
}
