import { isPowerOfTwo, writeU64LE } from '../../core/binary.ts';
import { ensure, ImageError } from '../../core/errors.ts';

/**
 * The header of a QED image (QEMU's docs/interop/qed_spec.txt, "Header"): 64 bytes, little-endian. Offsets and sizes
 * are bytes, but for those that count clusters.
 */
export interface QedHeader {
  clusterSize: number;
  /** Clusters of the L1 table, and of each L2 table. */
  tableClusters: number;
  /** Clusters before the first regular one: header, backing file's name, whatever else. */
  headerClusters: number;
  /** Sets of `Feature`. */
  features: bigint;
  compatible: bigint;
  autoclear: bigint;
  l1Offset: number;
  /** Guest disk size. */
  size: number;
  backingOffset: number;
  backingLength: number;
}

/** Features that a reader must know. */
export const Feature = {
  backingFile: 1n << 0n,
  needCheck: 1n << 1n,
  /** The backing file is raw, whatever it looks like. */
  backingIsRaw: 1n << 2n,
} as const;
const KNOWN_FEATURES = Feature.backingFile | Feature.needCheck | Feature.backingIsRaw;

/** `QED\0` */
const QED_MAGIC = 0x0044_4551;
export const HEADER_BYTES = 64;
export const MIN_CLUSTER_SIZE = 2 ** 12;
export const MAX_CLUSTER_SIZE = 2 ** 26;
export const DEFAULT_CLUSTER_SIZE = 2 ** 16;
export const MIN_TABLE_CLUSTERS = 1;
export const MAX_TABLE_CLUSTERS = 16;
export const DEFAULT_TABLE_CLUSTERS = 4;
/** Longer names are refused by QEMU. */
export const MAX_BACKING_NAME = 4095;
const SECTOR = 512;

const At = {
  magic: 0,
  clusterSize: 4,
  tableClusters: 8,
  headerClusters: 12,
  features: 16,
  compatible: 24,
  autoclear: 32,
  l1Offset: 40,
  size: 48,
  backingOffset: 56,
  backingLength: 60,
} as const;

/** Whether a file of which `head` is the first bytes calls itself QED. */
export function hasQedMagic(head: Buffer): boolean {
  return head.length >= HEADER_BYTES && head.readUInt32LE(At.magic) === QED_MAGIC;
}

export function isClusterSize(bytes: number): boolean {
  return isPowerOfTwo(bytes) && bytes >= MIN_CLUSTER_SIZE && bytes <= MAX_CLUSTER_SIZE;
}

export function isTableSize(clusters: number): boolean {
  return isPowerOfTwo(clusters) && clusters >= MIN_TABLE_CLUSTERS && clusters <= MAX_TABLE_CLUSTERS;
}

/**
 * The longest disk that the tables can map. QEMU counts it in 64 bits, which large clusters overflow (to 0 from 16 MiB
 * on, with the default table size): it neither makes nor opens such images, so neither does this program.
 */
export function longestDisk(clusterSize: number, tableClusters: number): bigint {
  const entries = (BigInt(clusterSize) * BigInt(tableClusters)) / 8n;
  return BigInt.asUintN(64, entries * entries * BigInt(clusterSize));
}

/** Whether a disk of so many bytes can be in an image of that geometry. */
export function isDiskSize(size: bigint, clusterSize: number, tableClusters: number): boolean {
  if (size % BigInt(SECTOR) !== 0n || size > BigInt(Number.MAX_SAFE_INTEGER)) return false;
  return size <= longestDisk(clusterSize, tableClusters);
}

/**
 * Decodes and checks the header, in QEMU's words and order. `head`: the first `HEADER_BYTES` of the file, with zeros
 * where it is shorter.
 * @param fileSize bytes of the file, which the L1 table must lie in
 */
export function decodeQedHeader(head: Buffer, fileSize: number): QedHeader {
  ensure(hasQedMagic(head), 'Image not in QED format', { offset: At.magic });
  const features = head.readBigUInt64LE(At.features);
  const unknown = features & ~KNOWN_FEATURES;
  if (unknown !== 0n) {
    throw new ImageError('unsupported', `Unsupported QED features: ${unknown.toString(16)}`, { offset: At.features });
  }
  const clusterSize = head.readUInt32LE(At.clusterSize);
  ensure(isClusterSize(clusterSize), 'QED cluster size is invalid', { offset: At.clusterSize });
  const tableClusters = head.readUInt32LE(At.tableClusters);
  ensure(isTableSize(tableClusters), 'QED table size is invalid', { offset: At.tableClusters });
  const size = head.readBigUInt64LE(At.size);
  ensure(isDiskSize(size, clusterSize, tableClusters), 'QED image size is invalid', { offset: At.size });
  const header: QedHeader = {
    clusterSize,
    tableClusters,
    headerClusters: head.readUInt32LE(At.headerClusters),
    features,
    compatible: head.readBigUInt64LE(At.compatible),
    autoclear: head.readBigUInt64LE(At.autoclear),
    l1Offset: Number(head.readBigUInt64LE(At.l1Offset)),
    size: Number(size),
    backingOffset: head.readUInt32LE(At.backingOffset),
    backingLength: head.readUInt32LE(At.backingLength),
  };
  checkPlaces(header, fileSize);
  return header;
}

function checkPlaces(header: QedHeader, fileSize: number): void {
  ensure(isTablePlace(header, header.l1Offset, fileSize), 'QED table offset is invalid', { offset: At.l1Offset });
  if ((header.features & Feature.backingFile) === 0n) return;
  const end = header.backingOffset + header.backingLength;
  ensure(end <= headerBytes(header), 'QED backing filename offset is invalid', { offset: At.backingOffset });
  ensure(header.backingLength <= MAX_BACKING_NAME, 'Failed to read backing filename', { offset: At.backingLength });
}

/** Bytes of the header clusters: nothing else lies there. */
export function headerBytes({ headerClusters, clusterSize }: QedHeader): number {
  return headerClusters * clusterSize;
}

/**
 * Whether a whole table can lie at that offset. QEMU refuses every table of one cluster, though it makes images with
 * `table_size=1` and the specification allows them: here they work.
 */
export function isTablePlace(header: QedHeader, offset: number, fileSize: number): boolean {
  const end = offset + header.tableClusters * header.clusterSize;
  return isPlace(header, offset) && end <= Math.ceil(fileSize / SECTOR) * SECTOR;
}

/** Whether a data cluster can lie at that offset. The file may end within it. */
export function isClusterPlace(header: QedHeader, offset: number, fileSize: number): boolean {
  return isPlace(header, offset) && offset < fileSize;
}

function isPlace(header: QedHeader, offset: number): boolean {
  return offset % header.clusterSize === 0 && offset >= headerBytes(header) && offset > 0;
}

/** The header's bytes. The backing file's name lies elsewhere: see `backingOffset`. */
export function encodeQedHeader(header: QedHeader): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES);
  bytes.writeUInt32LE(QED_MAGIC, At.magic);
  bytes.writeUInt32LE(header.clusterSize, At.clusterSize);
  bytes.writeUInt32LE(header.tableClusters, At.tableClusters);
  bytes.writeUInt32LE(header.headerClusters, At.headerClusters);
  bytes.writeBigUInt64LE(header.features, At.features);
  bytes.writeBigUInt64LE(header.compatible, At.compatible);
  bytes.writeBigUInt64LE(header.autoclear, At.autoclear);
  writeU64LE(bytes, At.l1Offset, header.l1Offset);
  writeU64LE(bytes, At.size, header.size);
  bytes.writeUInt32LE(header.backingOffset, At.backingOffset);
  bytes.writeUInt32LE(header.backingLength, At.backingLength);
  return bytes;
}
