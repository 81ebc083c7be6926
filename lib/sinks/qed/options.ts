import { ImageError } from '../../core/errors.ts';
import { type AnyOptionValues, defineOptions } from '../../core/options.ts';
import {
  DEFAULT_CLUSTER_SIZE,
  DEFAULT_TABLE_CLUSTERS,
  Feature,
  HEADER_BYTES,
  isClusterSize,
  isDiskSize,
  isTableSize,
  longestDisk,
  MAX_BACKING_NAME,
  MAX_CLUSTER_SIZE,
  MAX_TABLE_CLUSTERS,
  MIN_CLUSTER_SIZE,
  MIN_TABLE_CLUSTERS,
  type QedHeader,
} from '../../layouts/qed/index.ts';

/** The keys of `-o` in the order of `-o help`. */
export const qedCreateOptions = defineOptions({
  backing_file: { type: 'string', help: 'File name of a base image' },
  backing_fmt: { type: 'string', help: 'Image format of the base image' },
  cluster_size: { type: 'size', help: 'Cluster size (in bytes)', default: DEFAULT_CLUSTER_SIZE },
  size: { type: 'size', help: 'Virtual disk size' },
  table_size: { type: 'size', help: 'L1/L2 table size (in clusters)' },
});

/** The keys of the line `Formatting …`, in its order; those of the protocol follow. */
export const qedFormattingOrder = ['size', 'backing_file', 'backing_fmt', 'cluster_size', 'table_size'] as const;

/** What the header shall say of a backing file. */
export interface NewBacking {
  filename: string;
  format: string | null;
}

/** The header of a new image without clusters; an `invalid` ImageError in qemu-img's words for what can't be. */
export function newQedHeader(options: AnyOptionValues, size: number, backing: NewBacking | null): QedHeader {
  const clusterSize = Number(options.cluster_size ?? DEFAULT_CLUSTER_SIZE);
  const tableClusters = Number(options.table_size ?? DEFAULT_TABLE_CLUSTERS);
  if (!isClusterSize(clusterSize)) {
    throw invalid(`QED cluster size must be within range [${MIN_CLUSTER_SIZE}, ${MAX_CLUSTER_SIZE}] and power of 2`);
  }
  if (!isTableSize(tableClusters)) {
    throw invalid(`QED table size must be within range [${MIN_TABLE_CLUSTERS}, ${MAX_TABLE_CLUSTERS}] and power of 2`);
  }
  checkDiskSize(size, { clusterSize, tableClusters });
  const backingLength = backing === null ? 0 : Buffer.byteLength(backing.filename);
  checkBackingName(backingLength, clusterSize);
  return {
    clusterSize,
    tableClusters,
    headerClusters: 1,
    features: featuresFor(backing),
    compatible: 0n,
    autoclear: 0n,
    l1Offset: clusterSize,
    size,
    backingOffset: backing === null ? 0 : HEADER_BYTES,
    backingLength,
  };
}

/** Throws unless the tables can map a disk of that size. */
export function checkDiskSize(
  size: number,
  { clusterSize, tableClusters }: Pick<QedHeader, 'clusterSize' | 'tableClusters'>,
): void {
  if (isDiskSize(BigInt(size), clusterSize, tableClusters)) return;
  const longest = longestDisk(clusterSize, tableClusters);
  throw invalid(`QED image size must be a non-zero multiple of cluster size and less than ${longest} bytes`);
}

/** QEMU writes a longer name all the same, to an image that it can't open then. */
export function checkBackingName(length: number, clusterSize: number): void {
  if (length > Math.min(MAX_BACKING_NAME, clusterSize - HEADER_BYTES)) {
    throw invalid('The name of the backing file does not fit into the first cluster');
  }
}

/** What the feature bits say of a backing file. */
export function featuresFor(backing: NewBacking | null): bigint {
  if (backing === null) return 0n;
  return Feature.backingFile | (backing.format === 'raw' ? Feature.backingIsRaw : 0n);
}

function invalid(message: string): ImageError {
  return new ImageError('invalid', message, { format: 'qed', operation: 'create' });
}
