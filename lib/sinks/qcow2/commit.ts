import { tracePoint } from '../../core/trace.ts';
import { type PageImage, writePages } from '../pages.ts';
import type { Qcow2Image } from './image.ts';
import type { ClusterRun } from './refcounts.ts';

const traceCommit = tracePoint('qcow2_commit');

/**
 * Writes all metadata back in the order that a crash demands: data, refcounts, L2 tables, L1 table and header; then, and
 * only then, carries releases out. Under the metadata lock.
 */
export async function commitMetadata(image: Qcow2Image): Promise<void> {
  // One moment: what is linked by now has its data written and its refcounts counted.
  const refcountTable = image.refcounts.blocks.takeDirtyTable();
  const blocks = image.refcounts.blocks.pages.takeDirty();
  const tables = image.tables.takeDirty();
  const l1 = image.activeL1.takeDirty(image.header.l1Offset);
  const releases = image.refcounts.takeReleases();
  if (traceCommit.enabled) traceCommit.emit({ blocks: blocks.length, tables: tables.length });
  try {
    if (tables.length > 0 && image.external) await image.barrier(image.data);
    await writeRefcounts(image, blocks, refcountTable);
    if (tables.length > 0) {
      await image.barrier();
      await writePages(image.storage, tables);
    }
    if (l1 !== null) {
      await image.barrier();
      await image.storage.write(l1.offset, l1.bytes);
    }
  } catch (error) {
    image.refcounts.blocks.pages.markDirty(blocks);
    image.refcounts.blocks.markTableDirty();
    image.tables.markDirty(tables);
    if (l1 !== null) image.activeL1.markDirty();
    for (const { offset, clusters } of releases) image.refcounts.release(offset, clusters);
    throw error;
  }
  if (releases.length > 0) await applyReleases(image, releases);
}

async function writeRefcounts(image: Qcow2Image, blocks: PageImage[], table: PageImage | null): Promise<void> {
  const { storage, header } = image;
  await writePages(storage, blocks);
  if (table !== null) {
    await image.barrier();
    await storage.write(table.offset, table.bytes);
  }
  const { blocks: refcountBlocks } = image.refcounts;
  if (refcountBlocks.tableMoved) {
    header.refcountTableOffset = refcountBlocks.tableOffset;
    header.refcountTableClusters = refcountBlocks.tableClusters;
    refcountBlocks.tableMoved = false;
    image.markHeader();
  }
  if (image.headerDirty && !image.fresh) {
    await image.barrier();
    await image.writeHeader();
  }
}

async function applyReleases(image: Qcow2Image, releases: ClusterRun[]): Promise<void> {
  await image.barrier();
  await image.refcounts.applyReleases(releases);
  const { clusterSize } = image.geometry;
  for (const { offset, clusters } of releases) {
    // Shared clusters stay; the check costs a look into a block that was just touched.
    let freed = 0;
    for (let at = offset; at < offset + clusters * clusterSize; at += clusterSize) {
      if ((await image.refcounts.get(at)) === 0) {
        image.forget(at);
        freed += clusterSize;
      } else {
        if (freed > 0) await image.storage.discard(at - freed, freed);
        freed = 0;
      }
    }
    const end = offset + clusters * clusterSize;
    if (freed > 0) await image.storage.discard(end - freed, freed);
  }
}
