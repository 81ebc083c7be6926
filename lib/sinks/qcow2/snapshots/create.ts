import { ImageError } from '../../../core/errors.ts';
import { MAX_SNAPSHOTS } from '../../../layouts/qcow2/index.ts';
import type { Qcow2Image } from '../image.ts';
import { beginChange, endChange, placeL1, switchHeader, type Undo, undoChange } from './change.ts';
import { clearActive, withoutCopied } from './copied.ts';
import { discardFreed, lowerTable, raiseReferences } from './references.ts';
import { ClusterRuns } from './runs.ts';
import { newEntry, placeTable, readTable, type SnapshotTable } from './table.ts';

/** QEMU keeps no more of a name. */
const MAX_NAME_BYTES = 255;

/**
 * Takes a snapshot of the disk as it is. The L1 table is copied and everything under it gets one more reference; when nothing can
 * be written in place any more, the header gets the new snapshot table. Under the metadata lock. ImageError `no-space` where a
 * refcount can't be raised or there are too many snapshots: the image is then as it was.
 */
export async function createSnapshot(image: Qcow2Image, name: string): Promise<void> {
  const table = await readTable(image);
  if (table.entries.length >= MAX_SNAPSHOTS) {
    throw new ImageError('no-space', 'The image has as many snapshots as it can have', { code: 'EFBIG' });
  }
  const l1 = withoutCopied(image, image.l1);
  const undo: Undo = { version: image.header.version, l1, tally: { changed: 0 }, placed: [] };
  await beginChange(image, { dirty: true });
  try {
    await raiseReferences(image, l1, undo.tally);
    await place(image, name, table, undo);
  } catch (error) {
    await undoChange(image, undo);
    throw error;
  }
  clearActive(image);
  await switchHeader(image, {
    snapshotCount: table.entries.length + 1,
    snapshotsOffset: undo.placed[1].offset,
  });
  const freed = new ClusterRuns();
  await lowerTable(image, table, freed);
  await endChange(image, undo.version);
  await discardFreed(image, freed);
}

/** Writes the copy of the L1 table and the longer snapshot table. */
async function place(image: Qcow2Image, name: string, { entries }: SnapshotTable, { l1, placed }: Undo): Promise<void> {
  placed.push(await placeL1(image, l1));
  const milliseconds = Date.now();
  const entry = newEntry(
    {
      l1Offset: placed[0].offset,
      l1Entries: l1.length / 8,
      id: nextId(entries),
      name: shortened(name),
      dateSeconds: Math.floor(milliseconds / 1000),
      dateNanoseconds: (milliseconds % 1000) * 1_000_000,
      vmClockNanoseconds: 0n,
      vmStateSize: 0,
      diskSize: image.header.size,
      // There is no machine whose instructions could be counted; qemu-img says 0, not "unknown".
      icount: 0n,
      unknownExtra: Buffer.alloc(0),
    },
    image,
  );
  placed.push(await placeTable(image, [...entries, entry]));
}

/** One more than the largest; ids that are no numbers count as what they begin with. */
function nextId(entries: SnapshotTable['entries']): string {
  const numbers = entries.map(({ id }) => Number.parseInt(id, 10)).filter(Number.isSafeInteger);
  return String(numbers.reduce((most, each) => Math.max(most, each), 0) + 1);
}

function shortened(name: string): string {
  const bytes = Buffer.from(name, 'utf8');
  if (bytes.length <= MAX_NAME_BYTES) return name;
  let end = MAX_NAME_BYTES;
  // Not inside a character.
  while ((bytes[end] & 0xc0) === 0x80) end -= 1;
  return bytes.toString('utf8', 0, end);
}
