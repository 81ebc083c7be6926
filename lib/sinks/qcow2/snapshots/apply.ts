import { ensure, ImageError } from '../../../core/errors.ts';
import {
  Autoclear,
  decodeL1Entry,
  ExtensionType,
  findExtension,
  l1EntriesFor,
  MAX_L1_BYTES,
} from '../../../layouts/qcow2/index.ts';
import { readL1 } from '../../../sources/qcow2/snapshots.ts';
import type { Qcow2Image } from '../image.ts';
import { beginChange, endChange, placeL1, switchHeader, type Undo, undoChange } from './change.ts';
import { withoutCopied } from './copied.ts';
import { checkReferences, discardFreed, lowerReferences, lowerTable, raiseReferences } from './references.ts';
import { ClusterRuns } from './runs.ts';
import type { TableEntry } from './table.ts';

/**
 * Makes the disk what the snapshot is, its size included; what the disk was is lost. The snapshot's L1 table is copied to a new
 * place and everything under it gets one more reference; the header then takes the new table and the size in one write, and only then
 * the old table and what was under it lose theirs. All that the disk has now is shared with the snapshot, so no copied flag has to be
 * set. Under the metadata lock.
 */
export async function applySnapshot(image: Qcow2Image, entry: TableEntry): Promise<void> {
  const { header, geometry } = image;
  const size = sizeOf(image, entry);
  ensure(entry.l1Offset % geometry.clusterSize === 0, 'Snapshot L1 table offset invalid', { offset: entry.l1Offset });
  const l1 = await readL1(image.storage, entry.l1Offset, entry.l1Entries, geometry);
  await checkReferences(image, image.l1, null);
  await beginChange(image, { dirty: false });
  const undo: Undo = { version: header.version, l1, tally: { changed: 0 }, placed: [] };
  const active = Buffer.concat([withoutCopied(image, l1)], Math.max(l1.length, l1EntriesFor(size, geometry) * 8));
  try {
    await raiseReferences(image, l1, undo.tally);
    undo.placed.push(await placeL1(image, active));
  } catch (error) {
    await undoChange(image, undo);
    throw error;
  }
  const old = { l1: image.l1, offset: header.l1Offset };
  await image.commit();
  image.replaceL1(active, undo.placed[0].offset);
  await switchHeader(image, { size });
  occupy(image, active);
  const freed = new ClusterRuns();
  await lowerTable(image, { offset: old.offset, bytes: old.l1.length }, freed);
  await lowerReferences(image, old.l1, freed);
  await endChange(image, undo.version);
  await discardFreed(image, freed);
}

/** The size that the disk will have; throws where it can't have it. */
function sizeOf({ header, tail, geometry }: Qcow2Image, { diskSize }: TableEntry): number {
  const hasBitmaps =
    (header.autoclear & Autoclear.bitmaps) !== 0n && findExtension(tail.extensions, ExtensionType.bitmaps) !== null;
  if (hasBitmaps) throw new ImageError('refused', 'Device has active dirty bitmaps');
  const size = diskSize ?? header.size;
  if (size !== header.size && header.version < 3) {
    throw new ImageError('refused', "Can't resize a v2 image which has snapshots");
  }
  ensure(l1EntriesFor(size, geometry) * 8 <= MAX_L1_BYTES, "The snapshot's disk is too large");
  ensure(size % 512 === 0, "The snapshot's disk size is not a multiple of 512");
  return size;
}

function occupy(image: Qcow2Image, l1: Buffer): void {
  const { clusterSize } = image.geometry;
  for (let at = 0; at < l1.length; at += 8) {
    const { offset } = decodeL1Entry(l1, at, clusterSize);
    if (offset !== 0) image.occupied.add(offset, clusterSize);
  }
}
