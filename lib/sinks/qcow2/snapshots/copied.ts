import { decodeL1Entry, encodeEntry, entryOffset, isCompressed, isCopied } from '../../../layouts/qcow2/index.ts';
import type { PageImage } from '../../pages.ts';
import type { Qcow2Image } from '../image.ts';
import { eachStretch, type Stretch } from './counts.ts';
import { ClusterRuns } from './runs.ts';
import { tablesUnder, writeTables } from './tables.ts';

/** The L1 table as a snapshot has it: nothing under it may be written in place. */
export function withoutCopied(image: Qcow2Image, l1: Buffer): Buffer {
  const shared = Buffer.from(l1);
  for (let at = 0; at < shared.length; at += 8) {
    const { offset, copied } = decodeL1Entry(shared, at, image.geometry.clusterSize);
    if (copied) encodeEntry(shared, at, offset);
  }
  return shared;
}

/** Clears the copied flags of the active L1 table, all of which is shared now. */
export function clearActive({ activeL1 }: Qcow2Image): void {
  for (let index = 0; index < activeL1.entries; index += 1) {
    const { offset, copied } = activeL1.entry(index);
    if (copied) activeL1.set(index, offset, false);
  }
}

/**
 * Sets the copied flags under the active L1 table where a refcount is one by now. Tables that are still shared are passed over:
 * so is everything under them.
 */
export async function restoreCopied(image: Qcow2Image): Promise<void> {
  const own = await restoreActive(image);
  const uncopied = new ClusterRuns();
  const single = new ClusterRuns();
  for await (const tables of tablesUnder(image, own)) {
    uncopied.clear();
    single.clear();
    for (const table of tables) addUncopied(image, table, uncopied);
    if (uncopied.length === 0) continue;
    const noteSingle = ({ first, clusters, count }: Stretch) => {
      if (count === 1) single.add(first, clusters);
    };
    // What is not counted is for a check.
    await eachStretch(image, uncopied, noteSingle, () => {});
    await writeTables(
      image,
      tables.filter((table) => markSingle(image, table, single)),
    );
  }
}

/** @returns the active L1 table with nothing but the entries of tables that the active disk alone has */
async function restoreActive({ activeL1, refcounts }: Qcow2Image): Promise<Buffer> {
  const own = Buffer.from(activeL1.bytes);
  for (let index = 0; index < activeL1.entries; index += 1) {
    const { offset, copied } = activeL1.entry(index);
    if (offset === 0) continue;
    const alone = (await refcounts.get(offset)) === 1;
    if (alone !== copied) activeL1.set(index, offset, alone);
    if (!alone) encodeEntry(own, index * 8, 0);
  }
  return own;
}

/** Adds the clusters of the entries that have one of their own, not compressed, and no copied flag. */
function addUncopied({ geometry }: Qcow2Image, { bytes }: PageImage, uncopied: ClusterRuns): void {
  const { l2EntrySize, clusterSize } = geometry;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let first = 0;
  let end = 0;
  for (let at = 0; at < bytes.length; at += l2EntrySize) {
    const cluster = uncopiedCluster(view, at, clusterSize);
    if (cluster === 0) continue;
    if (cluster !== end) {
      if (end !== first) uncopied.add(first, end - first);
      first = cluster;
    }
    end = cluster + 1;
  }
  if (end !== first) uncopied.add(first, end - first);
}

/** @returns whether a flag was set */
function markSingle({ geometry }: Qcow2Image, { bytes }: PageImage, single: ClusterRuns): boolean {
  const { l2EntrySize, clusterSize } = geometry;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  let marked = false;
  for (let at = 0; at < bytes.length; at += l2EntrySize) {
    const cluster = uncopiedCluster(view, at, clusterSize);
    if (cluster === 0 || !single.has(cluster)) continue;
    bytes[at] |= 0x80;
    marked = true;
  }
  return marked;
}

/** The cluster of an entry without copied flag; 0 where it has none, or none of its own. */
function uncopiedCluster(view: DataView, at: number, clusterSize: number): number {
  const high = view.getUint32(at);
  if (isCopied(high) || isCompressed(high)) return 0;
  const cluster = entryOffset(high, view.getUint32(at + 4)) / clusterSize;
  return Number.isInteger(cluster) ? cluster : 0;
}
