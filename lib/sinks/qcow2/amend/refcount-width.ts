import { writeU64BE } from '../../../core/binary.ts';
import { ImageError } from '../../../core/errors.ts';
import { MAX_REFCOUNT_TABLE_BYTES, maxRefcount, writeRefcount } from '../../../layouts/qcow2/index.ts';
import type { Qcow2Image } from '../image.ts';
import type { ClusterRun } from '../refcounts.ts';

/** Throws unless every refcount of the image can be told in so many bits. */
export async function checkRefcountWidth(image: Qcow2Image, bits: number): Promise<void> {
  if (bits >= image.geometry.refcountBits) return;
  const max = maxRefcount(bits);
  await eachCount(image, (cluster, count) => {
    if (count <= max) return;
    const where = `Cluster at offset 0x${(cluster * image.geometry.clusterSize).toString(16)} has a refcount of ${count}`;
    throw new ImageError('invalid', `Cannot decrease refcount entry width to ${bits} bits: ${where}`, {
      operation: 'amend',
    });
  });
}

/** Calls `look` for every cluster whose refcount is not zero, ascending. */
async function eachCount(image: Qcow2Image, look: (cluster: number, count: number) => void): Promise<void> {
  const { blocks } = image.refcounts;
  const perBlock = image.geometry.refcountsPerBlock;
  for (let index = 0; index < blocks.entries; index += 1) {
    const page = await blocks.at(index * perBlock);
    if (page === null) continue;
    for (let at = 0; at < perBlock; at += 1) {
      const count = blocks.count(page, at);
      if (count !== 0) look(index * perBlock + at, count);
    }
  }
}

/** A refcount structure that is to be: blocks one after the other, then the table. */
interface Layout {
  /** Indices of the blocks in the table, ascending. */
  blocks: number[];
  /** Cluster of the first block. */
  first: number;
  tableClusters: number;
}

/**
 * Builds the refcounts anew in another width, behind everything that is in the file, and has the header name them. Until then nothing
 * refers to them; from then on the old ones are leaked, until whoever opens the image anew gives them up. The image must not be used
 * any more. Under the metadata lock, with nothing unwritten.
 * @returns where the old structure lies; its clusters have one reference each
 */
export async function changeRefcountWidth(image: Qcow2Image, bits: number): Promise<ClusterRun[]> {
  const { storage, header, geometry, refcounts } = image;
  const { clusterSize } = geometry;
  const layout = await planLayout(image, (clusterSize * 8) / bits);
  const old = [{ offset: refcounts.blocks.tableOffset, clusters: refcounts.blocks.tableClusters }];
  for (const offset of refcounts.blocks.offsets()) old.push({ offset, clusters: 1 });
  await writeBlocks(image, layout, bits);
  const { blocks, first, tableClusters } = layout;
  const table = Buffer.alloc(tableClusters * clusterSize);
  for (const [order, index] of blocks.entries()) writeU64BE(table, index * 8, (first + order) * clusterSize);
  const tableOffset = (first + blocks.length) * clusterSize;
  await storage.write(tableOffset, table);
  await storage.flush();
  header.refcountTableOffset = tableOffset;
  header.refcountTableClusters = tableClusters;
  header.refcountOrder = Math.log2(bits);
  await image.writeHeader();
  await storage.flush();
  return old;
}

async function planLayout(image: Qcow2Image, perBlock: number): Promise<Layout> {
  const { clusterSize } = image.geometry;
  const needed = new Set<number>();
  let last = Math.ceil(image.storage.size / clusterSize) - 1;
  await eachCount(image, (cluster) => {
    needed.add(Math.floor(cluster / perBlock));
    last = Math.max(last, cluster);
  });
  const first = last + 1;
  // The structure counts itself: each cluster of it may ask for one more block.
  for (let clusters = 1; ; ) {
    const all = new Set(needed);
    for (let cluster = first; cluster < first + clusters; cluster += 1) all.add(Math.floor(cluster / perBlock));
    const blocks = [...all].sort((a, b) => a - b);
    const tableClusters = Math.ceil(((blocks[blocks.length - 1] + 1) * 8) / clusterSize);
    if (tableClusters * clusterSize > Math.max(clusterSize, MAX_REFCOUNT_TABLE_BYTES)) {
      throw new ImageError('no-space', 'The refcount table would be too large', { operation: 'amend' });
    }
    if (blocks.length + tableClusters <= clusters) return { blocks, first, tableClusters };
    clusters = blocks.length + tableClusters;
  }
}

async function writeBlocks(image: Qcow2Image, { blocks, first, tableClusters }: Layout, bits: number): Promise<void> {
  const { geometry, storage } = image;
  const perBlock = (geometry.clusterSize * 8) / bits;
  const end = first + blocks.length + tableClusters;
  for (const [order, index] of blocks.entries()) {
    const bytes = Buffer.alloc(geometry.clusterSize);
    const from = index * perBlock;
    await copyCounts(image, from, from + perBlock, (cluster, count) =>
      writeRefcount(bytes, cluster - from, bits, count),
    );
    for (let cluster = Math.max(first, from); cluster < Math.min(end, from + perBlock); cluster += 1) {
      writeRefcount(bytes, cluster - from, bits, 1);
    }
    await storage.write((first + order) * geometry.clusterSize, bytes);
  }
  await storage.flush();
}

/** Calls `take` for clusters [from, to) whose refcount is not zero. */
async function copyCounts(
  image: Qcow2Image,
  from: number,
  to: number,
  take: (cluster: number, count: number) => void,
): Promise<void> {
  const { blocks } = image.refcounts;
  for (let cluster = from; cluster < to && blocks.reaches(cluster); ) {
    const page = await blocks.at(cluster);
    const end = Math.min(to, blocks.endOf(cluster));
    for (; page !== null && cluster < end; cluster += 1) {
      const count = blocks.count(page, cluster);
      if (count !== 0) take(cluster, count);
    }
    cluster = end;
  }
}
