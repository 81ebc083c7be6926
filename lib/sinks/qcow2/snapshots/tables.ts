import { ensure } from '../../../core/errors.ts';
import { decodeL1Entry } from '../../../layouts/qcow2/index.ts';
import { type PageImage, writePages } from '../../pages.ts';
import { BATCH_BYTES, ClusterReader, readAhead } from '../cluster-reader.ts';
import type { Qcow2Image } from '../image.ts';
import { MetadataClusters } from '../overlap.ts';

/**
 * The L2 tables under an L1 table, in order, read from the storage some at a time and good until the next ones are asked for: what is in
 * memory must have been written. A table that is named twice is `corrupt`: a small file could keep the walk busy for hours.
 */
export async function* tablesUnder(image: Qcow2Image, l1: Buffer): AsyncGenerator<PageImage[]> {
  const { storage, geometry } = image;
  const reader = new ClusterReader(storage, geometry.clusterSize);
  const most = Math.max(1, Math.floor(BATCH_BYTES / geometry.clusterSize));
  const load = (batch: readonly number[]) => reader.read(batch);
  for await (const { batch, loaded } of readAhead(tableOffsets(image, l1), { most, load })) {
    yield batch.map((offset) => ({ offset, bytes: loaded.get(offset) as Buffer }));
    reader.release(loaded);
  }
}

function* tableOffsets(image: Qcow2Image, l1: Buffer): Generator<number> {
  const { storage, geometry } = image;
  const structure = structureOf(image);
  const seen = new Set<number>();
  for (let at = 0; at < l1.length; at += 8) {
    const { offset } = decodeL1Entry(l1, at, geometry.clusterSize);
    if (offset === 0) continue;
    const context = { file: storage.name, format: 'qcow2', offset };
    ensure(offset < storage.size, 'An L2 table lies past the end of the file', context);
    ensure(!structure.has(offset), "An L2 table lies in the image's own metadata", context);
    ensure(!seen.has(offset), 'Two entries of one table refer to the same table', context);
    seen.add(offset);
    yield offset;
  }
}

/** Clusters that can't be an L2 table: the header, the refcount structures and the active L1 table. */
function structureOf({ geometry, header, refcounts, l1 }: Qcow2Image): MetadataClusters {
  const clusters = new MetadataClusters(geometry.clusterSize, true);
  clusters.add(0, geometry.clusterSize);
  clusters.add(header.l1Offset, l1.length);
  clusters.add(refcounts.blocks.tableOffset, refcounts.blocks.table.length);
  for (const offset of refcounts.blocks.offsets()) clusters.add(offset, geometry.clusterSize);
  return clusters;
}

/** Writes tables back where they lie. */
export async function writeTables(image: Qcow2Image, tables: PageImage[]): Promise<void> {
  for (const { offset } of tables) image.tables.drop(offset);
  await writePages(image.storage, tables);
}
