/**
 * Numbers of the qcow2 format: docs/interop/qcow2.txt ("General", "Header", "Header extensions").
 * Limits that the specification leaves open are those that QEMU enforces, so that no image is
 * accepted here that QEMU refuses.
 */

/** `QFI\xfb`, big-endian, the first four bytes. */
export const QCOW2_MAGIC = 0x514649fb;

export const MIN_CLUSTER_BITS = 9;
export const MAX_CLUSTER_BITS = 21;
export const DEFAULT_CLUSTER_BITS = 16;
/** Refcounts are 1 << order bits wide. */
export const MAX_REFCOUNT_ORDER = 6;
export const DEFAULT_REFCOUNT_ORDER = 4;

export const V2_HEADER_LENGTH = 72;
/** The shortest v3 header: up to and including `header_length`. */
export const V3_MIN_HEADER_LENGTH = 104;
/** With the compression type and its padding: what is written today. */
export const V3_HEADER_LENGTH = 112;

/** Incompatible features: whoever does not know a bit must not open the image. */
export const Incompatible = {
  dirty: 1n << 0n,
  corrupt: 1n << 1n,
  dataFile: 1n << 2n,
  compression: 1n << 3n,
  extendedL2: 1n << 4n,
} as const;
export const KNOWN_INCOMPATIBLE = 0x1fn;

/** Compatible features: may be ignored. */
export const Compatible = { lazyRefcounts: 1n << 0n } as const;

/** Autoclear features: whoever writes to the image without knowing a bit clears it. */
export const Autoclear = {
  bitmaps: 1n << 0n,
  rawDataFile: 1n << 1n,
} as const;
export const KNOWN_AUTOCLEAR = 0x3n;

export const ExtensionType = {
  end: 0,
  backingFormat: 0xe2792aca,
  featureNames: 0x6803f857,
  bitmaps: 0x23852875,
  encryption: 0x0537be77,
  dataFile: 0x44415441,
} as const;

/** Values of `crypt_method`. */
export const CryptMethod = { none: 0, aes: 1, luks: 2 } as const;

/** Values of the compression type; the array's index is the number on disk. */
export const COMPRESSION_TYPES = ['zlib', 'zstd'] as const;
export type CompressionType = (typeof COMPRESSION_TYPES)[number];

export const MAX_L1_BYTES = 32 * 1024 * 1024;
export const MAX_REFCOUNT_TABLE_BYTES = 8 * 1024 * 1024;
export const MAX_BACKING_NAME = 1023;
export const MAX_BACKING_FORMAT = 15;
export const MAX_SNAPSHOTS = 65536;
/** 64 MiB: an average of 1 KiB for each snapshot. */
export const MAX_SNAPSHOT_TABLE_BYTES = 1024 * MAX_SNAPSHOTS;
export const MAX_SNAPSHOT_EXTRA = 1024;
export const MAX_BITMAPS = 65535;
export const MAX_BITMAP_DIRECTORY_BYTES = 1024 * MAX_BITMAPS;
export const MAX_BITMAP_NAME = 1023;
export const MIN_BITMAP_GRANULARITY_BITS = 9;
export const MAX_BITMAP_GRANULARITY_BITS = 31;
export const MAX_BITMAP_TABLE_ENTRIES = 0x800_0000;
/** Bits of one bitmap, in bytes. */
export const MAX_BITMAP_BYTES = 512 * 1024 * 1024;

/** A compressed cluster's length is told in sectors of this size. */
export const COMPRESSED_SECTOR = 512;
/** Subclusters of a cluster with extended L2 entries. */
export const SUBCLUSTERS = 32;
