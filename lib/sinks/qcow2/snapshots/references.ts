import { ensure, ImageError } from '../../../core/errors.ts';
import { decodeL1Entry } from '../../../layouts/qcow2/index.ts';
import { readPadded } from '../../../storage/storage.ts';
import { type Page, type PageImage, writePages } from '../../pages.ts';
import { readCluster } from '../cluster.ts';
import type { Qcow2Image } from '../image.ts';
import { MetadataClusters } from '../overlap.ts';

/** An L2 table that an L1 table names. */
export interface NamedTable extends PageImage {
  /** Index of the entry that names it. */
  l1Index: number;
}

/** Bytes of L2 tables that are in memory at once. */
const BATCH_BYTES = 1024 * 1024;
const MAX_BATCH = 64;

/** Host clusters in the order in which they were found: first and count of each run, one after the other. */
export type Runs = number[];

/** Adds clusters; a run that goes on where the last one ended makes that one longer. */
export function addRun(runs: Runs, first: number, count: number): void {
  const last = runs.length - 2;
  if (last >= 0 && runs[last] + runs[last + 1] === first) runs[last + 1] += count;
  else runs.push(first, count);
}

/**
 * The L2 tables under an L1 table, read from the storage some at a time: what is in memory must have been written. `wanted`
 * leaves tables out by what the L1 entry says. A table that is named twice is `corrupt`: a small file could keep the walk
 * busy for hours.
 */
export async function* tablesUnder(
  image: Qcow2Image,
  l1: Buffer,
  wanted: (offset: number, l1Index: number) => boolean | Promise<boolean> = () => true,
): AsyncGenerator<NamedTable[]> {
  const { storage, geometry } = image;
  const most = Math.max(1, Math.min(MAX_BATCH, BATCH_BYTES / geometry.clusterSize));
  const seen = new Set<number>();
  const structure = structureOf(image);
  let batch: NamedTable[] = [];
  const load = async (): Promise<NamedTable[]> => {
    await Promise.all(batch.map(({ offset, bytes }) => readPadded(storage, offset, bytes)));
    return batch;
  };
  for (let l1Index = 0; l1Index * 8 < l1.length; l1Index += 1) {
    const { offset } = decodeL1Entry(l1, l1Index * 8, geometry.clusterSize);
    if (offset === 0) continue;
    const context = { file: storage.name, format: 'qcow2', offset };
    ensure(offset < storage.size, 'An L2 table lies past the end of the file', context);
    ensure(!structure.has(offset), "An L2 table lies in the image's own metadata", context);
    ensure(!seen.has(offset), 'Two entries of one table refer to the same table', context);
    seen.add(offset);
    if (!(await wanted(offset, l1Index))) continue;
    batch.push({ l1Index, offset, bytes: Buffer.allocUnsafe(geometry.clusterSize) });
    if (batch.length < most) continue;
    yield await load();
    batch = [];
  }
  if (batch.length > 0) yield await load();
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

/** The clusters that a table and its entries refer to: the table's own first. */
function clustersOf(image: Qcow2Image, { offset, bytes }: NamedTable): Runs {
  const { clusterSize, l2Entries, l2EntrySize } = image.geometry;
  const runs: Runs = [offset / clusterSize, 1];
  for (let index = 0; index < l2Entries; index += 1) {
    const at = index * l2EntrySize;
    if (bytes.readUInt32BE(at) === 0 && bytes.readUInt32BE(at + 4) === 0) continue;
    const { host, compressedLength } = readCluster(image, bytes, index);
    if (host < 0) continue;
    const first = Math.floor(host / clusterSize);
    const count = compressedLength === 0 ? 1 : Math.floor((host + compressedLength - 1) / clusterSize) - first + 1;
    addRun(runs, first, count);
  }
  return runs;
}

/** How far a change of references has come. */
export interface Tally {
  /** References that were added or taken, in the order of the walk. */
  changed: number;
}

/** Clusters whose last reference went: not to be used again, or discarded, before that is on the disk. */
export interface Freed {
  runs: Runs;
}

/** Adds one reference to everything under the L1 table, the tables included. */
export async function raiseReferences(image: Qcow2Image, l1: Buffer, tally: Tally): Promise<void> {
  for await (const tables of tablesUnder(image, l1)) {
    for (const table of tables) await raise(image, clustersOf(image, table), tally);
  }
}

async function raise(image: Qcow2Image, runs: Runs, tally: Tally): Promise<void> {
  const { max } = image.refcounts;
  await changeCounts(image, runs, (count, cluster) => {
    if (count >= max) {
      throw new ImageError('no-space', 'A reference count would overflow', {
        file: image.storage.name,
        format: 'qcow2',
        offset: cluster * image.geometry.clusterSize,
      });
    }
    tally.changed += 1;
    return count + 1;
  });
}

/** Takes back what an unfinished `raiseReferences` has added. */
export async function undoRaise(image: Qcow2Image, l1: Buffer, { changed }: Tally): Promise<void> {
  let left = changed;
  for await (const tables of tablesUnder(image, l1)) {
    for (const table of tables) {
      if (left === 0) return;
      await changeCounts(image, clustersOf(image, table), (count) => {
        if (left === 0) return count;
        left -= 1;
        return count - 1;
      });
    }
  }
}

/** Takes one reference from everything under the L1 table; only when nothing on the disk leads there from it. */
export async function lowerReferences(image: Qcow2Image, l1: Buffer, freed: Freed): Promise<void> {
  for await (const tables of tablesUnder(image, l1)) {
    for (const table of tables) await lower(image, clustersOf(image, table), freed);
  }
}

/** Takes one reference from each cluster of the runs. */
export async function lower(image: Qcow2Image, runs: Runs, freed: Freed): Promise<void> {
  const { clusterSize } = image.geometry;
  await changeCounts(image, runs, (count, cluster) => {
    if (count > 1) return count - 1;
    addRun(freed.runs, cluster, 1);
    image.occupied.delete(cluster * clusterSize, clusterSize);
    image.tables.drop(cluster * clusterSize);
    return 0;
  });
}

/**
 * Throws `corrupt` unless all references under the L1 table can be taken: every one is counted, and no table that is still needed
 * would go with them.
 */
export async function checkReferences(image: Qcow2Image, l1: Buffer, needed: MetadataClusters | null): Promise<void> {
  const bytes = image.geometry.clusterSize;
  for await (const tables of tablesUnder(image, l1)) {
    for (const table of tables) {
      if (needed !== null) await checkRemovable(image, { offset: table.offset, bytes }, needed);
      await changeCounts(image, clustersOf(image, table), (count) => count);
    }
  }
}

/** Throws `corrupt` where the range holds metadata that stay and that nothing else counts. */
export async function checkRemovable(
  image: Qcow2Image,
  { offset, bytes }: { offset: number; bytes: number },
  needed: MetadataClusters,
): Promise<void> {
  const { clusterSize } = image.geometry;
  for (let at = offset; at < offset + bytes; at += clusterSize) {
    if (needed.has(at) && (await image.refcounts.get(at)) < 2) throw shared(image, at);
  }
}

function shared(image: Qcow2Image, offset: number): ImageError {
  return new ImageError('corrupt', 'A cluster of metadata is used twice but counted once; run a check first', {
    file: image.storage.name,
    format: 'qcow2',
    offset,
  });
}

/** Sets the refcount of each cluster to what `change` makes of it. No promises but where the next block begins. */
async function changeCounts(
  image: Qcow2Image,
  runs: Runs,
  change: (count: number, cluster: number) => number,
): Promise<void> {
  const { blocks } = image.refcounts;
  let page: Page | null = null;
  let block = -1;
  for (let index = 0; index < runs.length; index += 2) {
    const end = runs[index] + runs[index + 1];
    for (let cluster = runs[index]; cluster < end; cluster += 1) {
      if (blocks.indexOf(cluster) !== block) {
        block = blocks.indexOf(cluster);
        page = await blocks.at(cluster);
      }
      const count = page === null ? 0 : blocks.count(page, cluster);
      if (count === 0) throw uncounted(image, cluster);
      const changed = change(count, cluster);
      if (changed !== count) blocks.setCount(page as Page, cluster, changed);
    }
  }
}

function uncounted({ storage, geometry }: Qcow2Image, cluster: number): ImageError {
  return new ImageError('corrupt', 'A cluster in use has no reference count', {
    file: storage.name,
    format: 'qcow2',
    offset: cluster * geometry.clusterSize,
  });
}

/** Writes tables back where they lie. */
export async function writeTables(image: Qcow2Image, tables: PageImage[]): Promise<void> {
  for (const { offset } of tables) image.tables.drop(offset);
  await writePages(image.storage, tables);
}
