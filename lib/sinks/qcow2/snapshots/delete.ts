import { ensure } from '../../../core/errors.ts';
import { readL1 } from '../../../sources/qcow2/snapshots.ts';
import type { Qcow2Image } from '../image.ts';
import { beginChange, dirtyHeader, endChange, switchHeader, type Undo, undoChange } from './change.ts';
import { restoreCopied } from './copied.ts';
import { checkReferences, checkRemovable, discardFreed, lowerReferences, lowerTable } from './references.ts';
import { ClusterRuns } from './runs.ts';
import { placeTable, type SnapshotTable } from './table.ts';

/**
 * Deletes a snapshot. The header gets a table without it; what was under its L1 table then loses one reference, and what the disk alone
 * has from now on is marked so that it can be written in place. Space goes back last. Under the metadata lock.
 */
export async function deleteSnapshot(image: Qcow2Image, table: SnapshotTable, index: number): Promise<void> {
  const { header, geometry, storage } = image;
  const { l1Offset, l1Entries } = table.entries[index];
  ensure(l1Offset % geometry.clusterSize === 0, 'Snapshot L1 table offset invalid', { offset: l1Offset });
  const l1 = await readL1(storage, l1Offset, l1Entries, geometry);
  await checkRemovable(image, { offset: l1Offset, bytes: l1.length }, image.occupied);
  await checkRemovable(image, table, image.occupied);
  await checkReferences(image, l1, image.occupied);
  await beginChange(image, { dirty: false });
  const undo: Undo = { version: header.version, l1: Buffer.alloc(0), tally: { changed: 0 }, placed: [] };
  try {
    undo.placed.push(await placeTable(image, table.entries.toSpliced(index, 1)));
  } catch (error) {
    await undoChange(image, undo);
    throw error;
  }
  await switchHeader(image, {
    snapshotCount: table.entries.length - 1,
    snapshotsOffset: undo.placed[0].offset,
    // Refcounts and copied flags now change one after the other.
    ...dirtyHeader(image),
  });
  const freed = new ClusterRuns();
  await lowerTable(image, table, freed);
  await lowerTable(image, { offset: l1Offset, bytes: l1.length }, freed);
  await lowerReferences(image, l1, freed);
  await image.commit();
  await storage.flush();
  await restoreCopied(image);
  await endChange(image, undo.version);
  await discardFreed(image, freed);
}
