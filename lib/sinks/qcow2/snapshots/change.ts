import {
  Autoclear,
  encodeHead,
  Incompatible,
  type Qcow2Header,
  V2_HEADER_LENGTH,
  V3_MIN_HEADER_LENGTH,
} from '../../../layouts/qcow2/index.ts';
import type { Qcow2Image } from '../image.ts';
import type { ClusterRun } from '../refcounts.ts';
import { restoreCopied } from './copied.ts';
import { type Tally, undoRaise } from './references.ts';

/** What a disk writes as a whole, or not at all. */
const SECTOR = 512;

/**
 * What the header says while copied flags and the refcounts they follow from disagree: they lie apart on the disk, so no order of
 * writes keeps them together. The dirty bit has whoever opens the image after a crash make both anew. Version 2 has no such bit, so the
 * image is one of version 3 for as long as that, and stays one if the power goes. Where a header of version 3 would be too long to
 * be written at one stroke nothing is said: a check would then find wrong flags after a crash, which cost copies but no data.
 */
export function dirtyHeader({ header, tail }: Qcow2Image): Partial<Qcow2Header> {
  const incompatible = header.incompatible | Incompatible.dirty;
  if (header.version >= 3) return { incompatible };
  const change = { version: 3, headerLength: V3_MIN_HEADER_LENGTH, incompatible } as const;
  const head = encodeHead({ ...header, ...change }, tail);
  return head !== null && head.length <= SECTOR ? change : {};
}

/** Before the first change; `dirty`: of flags and refcounts, see `dirtyHeader`. */
export async function beginChange(image: Qcow2Image, { dirty }: { dirty: boolean }): Promise<void> {
  const { header, storage } = image;
  // What the contents of the disk are does not change, so bitmaps stay as they are; features unknown here don't.
  const autoclear = header.autoclear & (Autoclear.bitmaps | Autoclear.rawDataFile);
  const change = dirty ? dirtyHeader(image) : {};
  if (change.incompatible === undefined && autoclear === header.autoclear) return;
  Object.assign(header, change, { autoclear });
  await image.writeHeader();
  await storage.flush();
}

/**
 * After the last change: all is on the disk, and the dirty bit goes.
 * @param version the image's, before the change
 */
export async function endChange(image: Qcow2Image, version: Qcow2Header['version']): Promise<void> {
  const { header, storage } = image;
  await image.commit();
  // A refcount table that has moved leaves its old place with the commit after.
  await image.commit();
  await storage.flush();
  if ((header.incompatible & Incompatible.dirty) === 0n) return;
  header.incompatible &= ~Incompatible.dirty;
  if (version < header.version) Object.assign(header, { version, headerLength: V2_HEADER_LENGTH });
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
  /** The image's version before the change. */
  version: Qcow2Header['version'];
  /** The L1 table under which references were added. */
  l1: Buffer;
  tally: Tally;
  placed: ClusterRun[];
}

/** Leaves the image as it was. What goes wrong here too leaves leaks, and perhaps the dirty bit. */
export async function undoChange(image: Qcow2Image, { version, l1, tally, placed }: Undo): Promise<void> {
  try {
    await undoRaise(image, l1, tally);
    await restoreCopied(image);
    for (const run of placed) if (run.clusters > 0) await image.refcounts.takeBack(run);
    await endChange(image, version);
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
