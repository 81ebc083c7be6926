import { alignUp } from '../../core/binary.ts';
import { ImageError } from '../../core/errors.ts';
import { l1EntriesFor, MAX_L1_BYTES } from '../../layouts/qcow2/index.ts';
import type { Qcow2Image } from './image.ts';

/**
 * Changes the guest size in the header and, where it no longer suffices, moves the L1 table to a larger
 * place. Under the metadata lock. An L1 table that could be shorter stays as it is.
 */
export async function resize(image: Qcow2Image, size: number): Promise<void> {
  const entries = l1EntriesFor(size, image.geometry);
  if (entries * 8 > MAX_L1_BYTES) {
    throw new ImageError('no-space', 'The image size is too large (try using a larger cluster size)', {
      file: image.storage.name,
      format: 'qcow2',
      operation: 'truncate',
    });
  }
  if (entries > image.header.l1Entries) await moveL1(image, entries);
  image.header.size = size;
  image.markHeader();
  if (!image.fresh) await image.commit();
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
