import { ensure, ImageError } from '../../core/errors.ts';

/** The Format Extension: a cluster with an MD5 checksum and feature sections (parallels.txt, "Format Extension"). */
const EXTENSION_MAGIC = 0xab234cef23dcea87n;
/** Magic and checksum, which the checksum does not cover. */
export const EXTENSION_HEAD_BYTES = 24;
export const FEATURE_HEAD_BYTES = 24;
/** The part of a bitmap feature before its L1 table. */
export const BITMAP_HEAD_BYTES = 32;
export const BITMAP_ENTRY_BYTES = 8;
const FEATURE_ALIGNMENT = 8;

/** Identifiers of features. */
export const FeatureMagic = { end: 0n, dirtyBitmap: 0x20385fae252cb34an } as const;

/** Entries of a bitmap's L1 table that are no places: all bits of the cluster are 0, or 1. Others are sectors. */
export const BitmapEntry = { zeros: 0n, ones: 1n } as const;

/** The MD5 checksum of the cluster's rest. */
export function decodeExtensionHead(bytes: Buffer): Buffer {
  const magic = bytes.readBigUInt64LE(0);
  ensure(
    magic === EXTENSION_MAGIC,
    `Wrong parallels Format Extension magic: 0x${magic.toString(16)}, expected: 0x${EXTENSION_MAGIC.toString(16)}`,
  );
  return bytes.subarray(8, EXTENSION_HEAD_BYTES);
}

/** The head of a feature section. */
export interface FeatureHead {
  magic: bigint;
  /** "Necessary" (bit 0), "transit" (bit 1); others have no meaning. */
  flags: bigint;
  /** Bytes of data that follow. */
  dataSize: number;
  /** Bytes to the next section, from the data's first byte. */
  paddedSize: number;
}

export function decodeFeatureHead(bytes: Buffer): FeatureHead {
  const dataSize = bytes.readUInt32LE(16);
  return {
    magic: bytes.readBigUInt64LE(0),
    flags: bytes.readBigUInt64LE(8),
    dataSize,
    paddedSize: Math.ceil(dataSize / FEATURE_ALIGNMENT) * FEATURE_ALIGNMENT,
  };
}

/** The data of a dirty bitmap feature, but for its L1 table. */
export interface BitmapHead {
  /** UUID, as text. */
  id: string;
  /** Sectors for each bit. */
  granularity: number;
  /** Entries of the L1 table, each for a cluster of bits. */
  l1Entries: number;
}

/** Decodes and checks a bitmap's head, in QEMU's words. `dataSize`: of the feature; `sectors`: of the disk. */
export function decodeBitmapHead(
  bytes: Buffer,
  { dataSize, sectors, clusterSize }: { dataSize: number; sectors: number; clusterSize: number },
): BitmapHead {
  const size = bytes.readBigUInt64LE(0);
  ensure(size === BigInt(sectors), `Bitmap size (in sectors) ${size} differs from disk size in sectors ${sectors}`);
  const granularity = bytes.readUInt32LE(24);
  const l1Entries = bytes.readUInt32LE(28);
  ensure(
    BITMAP_HEAD_BYTES + l1Entries * BITMAP_ENTRY_BYTES <= dataSize,
    'Bitmaps feature corrupted: l1 table exceeds extension data_size',
  );
  ensure(
    granularity > 0 && (granularity & (granularity - 1)) === 0,
    `Bitmap granularity (in sectors) ${granularity} is not a power of two`,
  );
  const expected = Math.ceil(bitmapBytes(sectors, granularity) / clusterSize);
  ensure(
    l1Entries === expected,
    `Bitmap table size ${l1Entries} does not correspond to bitmap size and cluster size. Expected ${expected}`,
  );
  return { id: uuidOf(bytes.subarray(8, 24)), granularity, l1Entries };
}

/** Bytes of a bitmap, which consists of words of 64 bits. */
function bitmapBytes(sectors: number, granularity: number): number {
  return Math.ceil(Math.ceil(sectors / granularity) / 64) * 8;
}

function uuidOf(bytes: Buffer): string {
  return bytes.toString('hex').replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

/** Refuses features that QEMU refuses: those with flags, and unknown ones. */
export function checkFeature({ magic, flags, dataSize }: FeatureHead, room: number): void {
  if (flags !== 0n) throw new ImageError('unsupported', 'Flags for extension feature are unsupported');
  if (magic === FeatureMagic.end) return;
  ensure(dataSize <= room, 'Feature data_size exceedes Format Extension cluster');
  if (magic !== FeatureMagic.dirtyBitmap) {
    throw new ImageError('unsupported', `Unknown feature: 0x${magic.toString(16)}`);
  }
  ensure(
    dataSize >= BITMAP_HEAD_BYTES,
    `Too small Bitmap Feature area in Parallels Format Extension: ${dataSize} bytes, ` +
      `expected at least ${BITMAP_HEAD_BYTES} bytes`,
  );
}
