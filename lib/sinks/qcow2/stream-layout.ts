import { ImageError } from '../../core/errors.ts';
import { MAX_REFCOUNT_TABLE_BYTES, type Qcow2Geometry } from '../../layouts/qcow2/index.ts';
import type { ClusterRun } from './cluster-runs.ts';

/**
 * Where everything lies in an image that is written in one pass: header, refcount blocks, L1 table, L2 tables,
 * data, refcount table. All of it follows from counts. Offsets are bytes in the file.
 *
 * The refcount table comes last although its place is known from the start: an image that was cut off on its way
 * then has none, and neither opens here nor passes `qemu-img check`.
 */
export interface StreamLayout {
  l1Entries: number;
  /** Which L1 entries have an L2 table: one byte each. */
  l2Present: Uint8Array;
  l2Count: number;
  dataClusters: number;
  refcountBlocks: number;
  refcountTableClusters: number;
  refcountBlocksOffset: number;
  l1Offset: number;
  l2Offset: number;
  dataOffset: number;
  refcountTableOffset: number;
  /** Clusters of the whole file. */
  totalClusters: number;
}

/** Counts the plan's clusters and lays the file out. */
export async function layOut(
  runs: AsyncIterable<ClusterRun[]>,
  l1Entries: number,
  geometry: Qcow2Geometry,
): Promise<StreamLayout> {
  const l2Present = new Uint8Array(l1Entries);
  let dataClusters = 0;
  for await (const list of runs) {
    for (const { first, count, kind } of list) {
      if (kind === 'none') continue;
      if (kind === 'data') dataClusters += count;
      const from = Math.floor(first / geometry.l2Entries);
      l2Present.fill(1, from, Math.floor((first + count - 1) / geometry.l2Entries) + 1);
    }
  }
  let l2Count = 0;
  for (const present of l2Present) l2Count += present;
  return place({ l1Entries, l2Present, l2Count, dataClusters }, geometry);
}

function place(
  counts: Pick<StreamLayout, 'l1Entries' | 'l2Present' | 'l2Count' | 'dataClusters'>,
  geometry: Qcow2Geometry,
): StreamLayout {
  const { clusterSize, refcountsPerBlock } = geometry;
  const l1Clusters = Math.ceil((counts.l1Entries * 8) / clusterSize);
  const others = 1 + l1Clusters + counts.l2Count + counts.dataClusters;
  // Refcounts count their own blocks and table too: a few rounds until the sum no longer moves.
  let [blocks, table, total] = [1, 1, 0];
  while (total !== others + blocks + table) {
    total = others + blocks + table;
    blocks = Math.ceil(total / refcountsPerBlock);
    table = Math.ceil((blocks * 8) / clusterSize);
  }
  if (table * clusterSize > MAX_REFCOUNT_TABLE_BYTES) {
    throw new ImageError('unsupported', 'The image is too large for its cluster size and refcount width');
  }
  const l1Offset = (1 + blocks) * clusterSize;
  const l2Offset = l1Offset + l1Clusters * clusterSize;
  const dataOffset = l2Offset + counts.l2Count * clusterSize;
  return {
    ...counts,
    refcountBlocks: blocks,
    refcountTableClusters: table,
    refcountBlocksOffset: clusterSize,
    l1Offset,
    l2Offset,
    dataOffset,
    refcountTableOffset: dataOffset + counts.dataClusters * clusterSize,
    totalClusters: total,
  };
}
