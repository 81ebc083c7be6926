import { Autoclear, Incompatible, type Qcow2Header } from '../../../layouts/qcow2/index.ts';
import type { Qcow2Image } from '../image.ts';
import type { ClusterRun } from '../refcounts.ts';
import { restoreCopied } from './copied.ts';
import { type Tally, undoRaise } from './references.ts';

/**
 * Before the first change. Copied flags and the refcounts they follow from lie apart on the disk: while they disagree, the dirty bit
 * has whoever opens the image after a crash make both anew. Version 2 has no such bit; there the flags are the ones that say "shared"
 * as long as they disagree, which costs copies but no data.
 */
export async function beginChange(image: Qcow2Image, { dirty }: { dirty: boolean }): Promise<void> {
  const { header, storage } = image;
  // What the contents of the disk are does not change, so bitmaps stay as they are; features unknown here don't.
  const autoclear = header.autoclear & (Autoclear.bitmaps | Autoclear.rawDataFile);
  const isDirty = dirty && header.version >= 3;
  if (!isDirty && autoclear === header.autoclear) return;
  header.autoclear = autoclear;
  if (isDirty) header.incompatible |= Incompatible.dirty;
  await image.writeHeader();
  await storage.flush();
}

/** After the last change: all is on the disk, and the dirty bit goes. */
export async function endChange(image: Qcow2Image): Promise<void> {
  const { header, storage } = image;
  await image.commit();
  // A refcount table that has moved leaves its old place with the commit after.
  await image.commit();
  await storage.flush();
  if ((header.incompatible & Incompatible.dirty) === 0n) return;
  header.incompatible &= ~Incompatible.dirty;
  await image.writeHeader();
  await storage.flush();
}

/** All that the new header will refer to is on the disk; then the header is written, and then it is on the disk. */
export async function switchHeader(image: Qcow2Image, change: Partial<Qcow2Header>): Promise<void> {
  await image.commit();
  await image.storage.flush();
  Object.assign(image.header, change);
  await image.writeHeader();
  await image.storage.flush();
}

/** What has been done in the refcounts before the header was written, to be taken back where that does not come about. */
export interface Undo {
  /** The L1 table under which references were added. */
  l1: Buffer;
  tally: Tally;
  placed: ClusterRun[];
}

/** Leaves the image as it was. What goes wrong here too leaves leaks, and perhaps the dirty bit. */
export async function undoChange(image: Qcow2Image, { l1, tally, placed }: Undo): Promise<void> {
  try {
    await undoRaise(image, l1, tally);
    await restoreCopied(image);
    for (const run of placed) if (run.clusters > 0) await image.refcounts.takeBack(run);
    await endChange(image);
  } catch {
    // The error that made it necessary is the one to tell.
  }
}

/** Writes an L1 table to a new place, where nothing refers to it yet. */
export async function placeL1(image: Qcow2Image, l1: Buffer): Promise<ClusterRun> {
  const { clusterSize } = image.geometry;
  const clusters = Math.ceil(l1.length / clusterSize);
  if (clusters === 0) return { offset: 0, clusters };
  const run = { offset: await image.refcounts.allocateTogether(clusters), clusters };
  image.checkAllocated(run);
  await image.storage.write(run.offset, Buffer.concat([l1], clusters * clusterSize));
  return run;
}
