import { alignUp } from '../../core/binary.ts';
import { ImageError } from '../../core/errors.ts';
import { Autoclear, l1EntriesFor, MAX_L1_BYTES } from '../../layouts/qcow2/index.ts';
import type { Qcow2Image } from './image.ts';
import { preallocate } from './preallocate.ts';
import type { Preallocation } from './settings.ts';

const SECTOR = 512;
const PREALLOCATIONS: readonly string[] = ['off', 'metadata', 'falloc', 'full'];

/** Throws, before anything is changed, for what can't be done with an image that exists; `Qcow2Bitmaps` checks its part. */
export function checkResize({ header, storage, fresh }: Qcow2Image, size: number, mode: string): void {
  const refuse = (message: string) => new ImageError('unsupported', message, { file: storage.name, format: 'qcow2' });
  if (!PREALLOCATIONS.includes(mode)) throw refuse(`Unsupported preallocation mode '${mode}'`);
  if (fresh) return;
  if (size % SECTOR !== 0) throw refuse(`The new size must be a multiple of ${SECTOR}`);
  if (header.version < 3 && header.snapshotCount > 0) throw refuse("Can't resize a v2 image which has snapshots");
}

/** What is added to the disk, and how. */
export interface Growth {
  /** Guest bytes before, and after. */
  from: number;
  to: number;
  preallocation: Preallocation;
}

/** Gives what is added to a disk its host clusters. Raw data files show all clusters of the disk from the start. */
export async function preallocateGrowth(image: Qcow2Image, growth: Growth): Promise<void> {
  const { preallocation } = growth;
  const isRaw = (image.header.autoclear & Autoclear.rawDataFile) !== 0n;
  await preallocate(image, isRaw && preallocation === 'off' ? 'metadata' : preallocation, growth);
}

/**
 * Gives up the L2 tables behind the disk's new end, all of whose clusters have been given up, and then the end of the file. Under the
 * metadata lock.
 */
export async function reclaimTail(image: Qcow2Image): Promise<void> {
  const { l2Coverage } = image.geometry;
  for (let index = Math.ceil(image.header.size / l2Coverage); index < image.activeL1.entries; index += 1) {
    const { offset } = image.activeL1.entry(index);
    if (offset === 0) continue;
    image.activeL1.set(index, 0, false);
    image.refcounts.release(offset, 1);
  }
  await image.commit();
  // Carrying releases out changes refcounts, and only then is the end of the file free.
  await image.commit();
  if (image.storage.fixedSize) return;
  await image.storage.flush();
  const end = await image.refcounts.usedEnd();
  if (end < image.storage.size) await image.storage.truncate(end);
}

/** Changes the guest size in the header, and what depends on it. Under the metadata lock. */
export async function resize(image: Qcow2Image, size: number): Promise<void> {
  await reach(image, size);
  // The header tells of the new size and of bitmaps of that size at once.
  if (!image.fresh) {
    await image.bitmaps.checkResize(size);
    await image.bitmaps.prepareResize(size);
  }
  image.header.size = size;
  image.markHeader();
  if (!image.fresh) await image.commit();
}

/**
 * Moves the L1 table to a larger place where it does not reach so far; one that could be shorter stays as it is. Under the
 * metadata lock.
 */
export async function reach(image: Qcow2Image, size: number): Promise<void> {
  const entries = l1EntriesFor(size, image.geometry);
  if (entries * 8 > MAX_L1_BYTES) {
    throw new ImageError('no-space', 'Failed to grow the L1 table: File too large', {
      code: 'EFBIG',
      file: image.storage.name,
      format: 'qcow2',
      operation: 'truncate',
    });
  }
  if (entries > image.header.l1Entries) await moveL1(image, entries);
}

async function moveL1(image: Qcow2Image, needed: number): Promise<void> {
  const { clusterSize } = image.geometry;
  // A new image may grow step by step; its table then doubles, so as not to move each time.
  const entries = image.fresh ? Math.min(MAX_L1_BYTES / 8, Math.max(needed, image.header.l1Entries * 2)) : needed;
  const l1 = Buffer.alloc(entries * 8);
  image.l1.copy(l1);
  const clusters = alignUp(l1.length, clusterSize) / clusterSize;
  const offset = await image.refcounts.allocateTogether(clusters);
  // What the new table's clusters count must be on the disk before the header refers to them.
  await image.commit();
  await image.storage.write(offset, Buffer.concat([l1], clusters * clusterSize));
  const old = { offset: image.header.l1Offset, clusters: Math.ceil((image.header.l1Entries * 8) / clusterSize) };
  image.replaceL1(l1, offset);
  if (!image.fresh) {
    await image.storage.flush();
    await image.writeHeader();
  }
  if (old.clusters > 0) image.refcounts.release(old.offset, old.clusters);
}
