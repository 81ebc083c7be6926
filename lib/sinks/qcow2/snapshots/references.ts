import { ImageError } from '../../../core/errors.ts';
import type { PageImage } from '../../pages.ts';
import type { Qcow2Image } from '../image.ts';
import type { MetadataClusters } from '../overlap.ts';
import { addClusters } from './clusters.ts';
import { eachStretch } from './counts.ts';
import { ClusterRuns, countOf, firstOf } from './runs.ts';
import { tablesUnder, writeTables } from './tables.ts';

/** Freed clusters that are remembered before their space is given back: runs, of eight bytes each. */
const MAX_FREED = 1024 * 1024;

/** How far a change of references has come. */
export interface Tally {
  /** References that were added, in the order of the walk. */
  changed: number;
}

/** The tables under an L1 table, some at a time, with all clusters that they and their entries refer to. */
async function* referencesUnder(
  image: Qcow2Image,
  l1: Buffer,
): AsyncGenerator<{ tables: PageImage[]; runs: ClusterRuns }> {
  const runs = new ClusterRuns();
  for await (const tables of tablesUnder(image, l1)) {
    runs.clear();
    for (const table of tables) addClusters(image, table, runs);
    yield { tables, runs };
  }
}

/**
 * Adds one reference to everything under the L1 table, the tables included, and clears the copied flags in them: everything there is
 * shared now. ImageError `no-space` where a refcount can't be raised.
 */
export async function raiseReferences(image: Qcow2Image, l1: Buffer, tally: Tally): Promise<void> {
  for await (const { tables, runs } of referencesUnder(image, l1)) {
    await raise(image, runs, tally);
    await writeTables(
      image,
      tables.filter((table) => clearCopied(image, table)),
    );
  }
}

function raise(image: Qcow2Image, runs: ClusterRuns, tally: Tally): Promise<void> {
  const { blocks, max } = image.refcounts;
  return eachStretch(image, runs, ({ page, first, clusters, count }) => {
    if (count >= max) {
      throw new ImageError('no-space', 'A reference count would overflow', {
        file: image.storage.name,
        format: 'qcow2',
        offset: first * image.geometry.clusterSize,
      });
    }
    blocks.setCounts(page, first, clusters, count + 1);
    tally.changed += clusters;
  });
}

/** @returns whether there was a flag */
function clearCopied({ geometry }: Qcow2Image, { bytes }: PageImage): boolean {
  const { l2EntrySize } = geometry;
  let cleared = false;
  for (let at = 0; at < bytes.length; at += l2EntrySize) {
    if (bytes[at] < 0x80) continue;
    bytes[at] &= 0x7f;
    cleared = true;
  }
  return cleared;
}

/** Takes back what an unfinished `raiseReferences` has added. */
export async function undoRaise(image: Qcow2Image, l1: Buffer, { changed }: Tally): Promise<void> {
  const { blocks } = image.refcounts;
  let left = changed;
  for await (const { runs } of referencesUnder(image, l1)) {
    await eachStretch(image, runs, ({ page, first, clusters, count }) => {
      const some = Math.min(left, clusters);
      blocks.setCounts(page, first, some, count - 1);
      left -= some;
    });
    if (left === 0) return;
  }
}

/** Takes one reference from everything under the L1 table; only when nothing on the disk leads there from it. */
export async function lowerReferences(image: Qcow2Image, l1: Buffer, freed: ClusterRuns): Promise<void> {
  for await (const { tables, runs } of referencesUnder(image, l1)) {
    await lower(image, runs, freed);
    for (const { offset } of tables) image.tables.drop(offset);
    if (freed.length < MAX_FREED) continue;
    await image.commit();
    await image.storage.flush();
    await discardFreed(image, freed);
  }
}

/** Takes one reference from the clusters of a table that is no longer in use. */
export async function lowerTable(image: Qcow2Image, table: Range, freed: ClusterRuns): Promise<void> {
  const { clusterSize } = image.geometry;
  const runs = new ClusterRuns();
  if (table.bytes > 0) runs.add(table.offset / clusterSize, Math.ceil(table.bytes / clusterSize));
  await lower(image, runs, freed);
}

/** @param freed is told of clusters whose last reference went: not to be discarded before that is on the disk */
function lower(image: Qcow2Image, runs: ClusterRuns, freed: ClusterRuns): Promise<void> {
  const { clusterSize } = image.geometry;
  const { blocks } = image.refcounts;
  return eachStretch(image, runs, ({ page, first, clusters, count }) => {
    blocks.setCounts(page, first, clusters, count - 1);
    if (count > 1) return;
    freed.add(first, clusters);
    image.occupied.delete(first * clusterSize, clusters * clusterSize);
  });
}

/** Gives the space of clusters back that are free on the disk by now, and forgets them. */
export async function discardFreed(image: Qcow2Image, freed: ClusterRuns): Promise<void> {
  const { clusterSize } = image.geometry;
  let [first, end] = [0, 0];
  const discard = () => image.storage.discard(first * clusterSize, (end - first) * clusterSize);
  for (const run of freed.ascending()) {
    if (firstOf(run) !== end) {
      if (end > first) await discard();
      first = firstOf(run);
    }
    end = firstOf(run) + countOf(run);
  }
  if (end > first) await discard();
  freed.clear();
  // They may be taken again.
  image.refcounts.searchFrom(0);
}

/** A part of the file. */
export interface Range {
  offset: number;
  bytes: number;
}

/**
 * Throws `corrupt` unless all references under the L1 table can be taken: every one is counted, and no table that is still needed
 * would go with them.
 */
export async function checkReferences(image: Qcow2Image, l1: Buffer, needed: MetadataClusters | null): Promise<void> {
  const bytes = image.geometry.clusterSize;
  for await (const { tables, runs } of referencesUnder(image, l1)) {
    if (needed !== null) for (const { offset } of tables) await checkRemovable(image, { offset, bytes }, needed);
    await eachStretch(image, runs, () => {});
  }
}

/** Throws `corrupt` where the range holds metadata that stay and that nothing else counts. */
export async function checkRemovable(
  image: Qcow2Image,
  { offset, bytes }: Range,
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
