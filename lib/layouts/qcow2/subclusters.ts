import { SUBCLUSTERS } from './constants.ts';

/**
 * The subcluster bitmap of an extended L2 entry ("Extended L2 Entries"): its second 64 bits. The low
 * half has one bit a subcluster that is allocated, the high half one that reads as zeros; both at
 * once is invalid. Halves are unsigned 32-bit numbers.
 */
export interface SubclusterBitmap {
  allocated: number;
  zero: number;
}

export const ALL_SUBCLUSTERS = 0xffff_ffff;

/** The bitmap of the entry at byte `at` of an L2 table. */
export function decodeSubclusters(table: Buffer, at: number): SubclusterBitmap {
  return { zero: table.readUInt32BE(at + 8), allocated: table.readUInt32BE(at + 12) };
}

export function encodeSubclusters(table: Buffer, at: number, { allocated, zero }: SubclusterBitmap): void {
  table.writeUInt32BE(zero >>> 0, at + 8);
  table.writeUInt32BE(allocated >>> 0, at + 12);
}

/** A mask of the subclusters from `first` up to, not including, `end`. */
export function subclusterMask(first: number, end: number): number {
  const count = end - first;
  if (count <= 0) return 0;
  const ones = count >= SUBCLUSTERS ? ALL_SUBCLUSTERS : 2 ** count - 1;
  return (ones * 2 ** first) >>> 0;
}
