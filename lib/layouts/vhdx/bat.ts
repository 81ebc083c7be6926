import { readU64LE, writeU64LE } from '../../core/binary.ts';
import { BITMAP_BITS, MIB } from './constants.ts';
import type { DiskParameters } from './metadata.ts';

/** States of a payload block (section 2.5.1.1). */
export const PayloadState = {
  notPresent: 0,
  undefined: 1,
  zero: 2,
  unmapped: 3,
  fullyPresent: 6,
  partiallyPresent: 7,
} as const;

/** States of a sector bitmap block (section 2.5.1.2). */
export const BitmapState = { notPresent: 0, present: 6 } as const;

export const BAT_ENTRY_LENGTH = 8;
const STATE_MASK = 0x7;

/** Numbers that follow from the parameters (section 2.4 and 2.5). */
export interface BatGeometry {
  blocks: number;
  /** Payload blocks for each sector bitmap block; a power of two. */
  chunkRatio: number;
  /** Entries of the BAT, those of the sector bitmap blocks included. */
  entries: number;
}

export function batGeometry({
  size,
  blockSize,
  logicalSectorSize,
  hasParent,
}: Pick<DiskParameters, 'size' | 'blockSize' | 'logicalSectorSize' | 'hasParent'>): BatGeometry {
  const chunkRatio = (BITMAP_BITS * logicalSectorSize) / blockSize;
  const blocks = Math.ceil(size / blockSize);
  // A disk of its own ends with its last payload block, a differencing one with the bitmap of its last chunk.
  const between = Math.floor(Math.max(0, blocks - 1) / chunkRatio);
  const entries = hasParent ? Math.ceil(blocks / chunkRatio) * (chunkRatio + 1) : blocks + between;
  return { blocks, chunkRatio, entries };
}

/** Index of a payload block's entry: behind each chunk's entries comes the one of its sector bitmap. */
export function payloadIndex(block: number, chunkRatio: number): number {
  return block + Math.floor(block / chunkRatio);
}

/** Index of the entry of a chunk's sector bitmap. */
export function bitmapIndex(chunk: number, chunkRatio: number): number {
  return chunk * (chunkRatio + 1) + chunkRatio;
}

/** The state of the entry at `at`. */
export function entryState(bytes: Buffer, at: number): number {
  return bytes[at] & STATE_MASK;
}

/**
 * The offset in bytes that the entry at `at` has. Bits 20 and up count mebibytes, so they are the offset as they stand;
 * those between them and the state are reserved, and ignored.
 */
export function entryOffset(bytes: Buffer, at: number): number {
  const value = readU64LE(bytes, at, 'The offset of a block');
  return value - (value % MIB);
}

/** Writes an entry. */
export function encodeEntry(bytes: Buffer, at: number, state: number, offset = 0): void {
  writeU64LE(bytes, at, offset + state);
}
