import { readU64LE, writeU64LE } from '../../core/binary.ts';
import { SECTOR } from './constants.ts';

/** What a metadata marker announces ("Stream-Optimized Compressed Sparse Extents"). */
export const MarkerType = { endOfStream: 0, grainTable: 1, grainDirectory: 2, footer: 3 } as const;

/** Bytes before a compressed grain's data: its guest sector (8) and the data's length (4). */
export const GRAIN_MARKER_BYTES = 12;

export type Marker =
  | { kind: 'grain' /** Guest sector. */; sector: number /** Compressed bytes. */; size: number }
  | { kind: 'metadata'; type: number /** Sectors that follow. */; sectors: number };

/** Decodes a marker at the beginning of `bytes`, 16 of them at the least. */
export function decodeMarker(bytes: Buffer): Marker {
  const value = readU64LE(bytes, 0, 'A marker');
  const size = bytes.readUInt32LE(8);
  if (size > 0) return { kind: 'grain', sector: value, size };
  return { kind: 'metadata', sectors: value, type: bytes.readUInt32LE(12) };
}

export function encodeMetadataMarker(type: number, sectors: number): Buffer {
  const marker = Buffer.alloc(SECTOR);
  writeU64LE(marker, 0, sectors);
  marker.writeUInt32LE(type, 12);
  return marker;
}

/** A compressed grain with its marker before it, filled up to whole sectors. */
export function encodeGrain(sector: number, packed: Buffer): Buffer {
  const bytes = Buffer.allocUnsafe(grainBytes(packed.length));
  writeU64LE(bytes, 0, sector);
  bytes.writeUInt32LE(packed.length, 8);
  packed.copy(bytes, GRAIN_MARKER_BYTES);
  bytes.fill(0, GRAIN_MARKER_BYTES + packed.length);
  return bytes;
}

/** Bytes that a grain of so many compressed ones takes in the file. */
export function grainBytes(packed: number): number {
  return Math.ceil((GRAIN_MARKER_BYTES + packed) / SECTOR) * SECTOR;
}

/**
 * Bytes that a compressed grain and its marker take at the most: deflate adds five bytes to each stored block, of which
 * no compressor makes more than one every 256 bytes or so.
 */
export function maxGrainBytes(grain: number): number {
  return GRAIN_MARKER_BYTES + grain + Math.ceil(grain / 32) + SECTOR;
}
