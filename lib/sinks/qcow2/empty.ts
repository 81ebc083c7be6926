import { readCluster, releaseCluster } from './cluster.ts';
import type { Qcow2Image } from './image.ts';
import { reclaimTail } from './resize.ts';

/** L2 tables given up between two commits: what they free is kept in memory until then. */
const TABLES_AT_ONCE = 64;

/**
 * Gives up all that the active layer holds: its backing file shows everywhere, or zeros. Each L1 entry is cleared on the
 * disk before what it led to counts as free, so that a kill leaves leaks at the worst. Internal snapshots keep
 * their clusters, and the file its L1 table's length. Under the metadata lock.
 */
export async function makeEmpty(image: Qcow2Image): Promise<void> {
  let given = 0;
  for (let index = 0; index < image.activeL1.entries; index += 1) {
    if (!(await giveUpTable(image, index))) continue;
    given += 1;
    if (given % TABLES_AT_ONCE === 0) await image.commit();
  }
  await image.commit();
  // Carrying releases out changes refcounts, and only then do blocks count nothing any more.
  await image.commit();
  const inDataFile = image.external ? Math.min(image.data.size, image.header.size) : 0;
  if (inDataFile > 0) await image.data.zero(0, inDataFile, { unmap: true });
  await image.refcounts.dropEmptyBlocks();
  await reclaimTail(image);
}

/** False where there is no table. */
async function giveUpTable(image: Qcow2Image, index: number): Promise<boolean> {
  const { l2Entries } = image.geometry;
  const page = await image.table(index);
  if (page === null) return false;
  try {
    for (let entry = 0; entry < l2Entries; entry += 1) releaseCluster(image, readCluster(image, page.bytes, entry));
  } finally {
    page.pins -= 1;
  }
  const { offset } = image.activeL1.entry(index);
  image.activeL1.set(index, 0, false);
  image.refcounts.release(offset, 1);
  return true;
}
