import { alignUp } from '../../../core/binary.ts';
import { ImageError } from '../../../core/errors.ts';
import {
  decodeSnapshotEntry,
  MAX_SNAPSHOT_EXTRA,
  MAX_SNAPSHOT_TABLE_BYTES,
  SNAPSHOT_FIXED,
  type SnapshotEntry,
} from '../../../layouts/qcow2/index.ts';
import { readPadded } from '../../../storage/storage.ts';
import { type CheckedImage, type Findings, type Fix, noFindings } from './context.ts';

/** An entry of the snapshot table, with an L1 table that may be too large. */
export type CheckedSnapshot = SnapshotEntry;

export interface SnapshotTable {
  entries: CheckedSnapshot[];
  /** Bytes of the table in the file, from `snapshotsOffset` on. */
  bytes: number;
  findings: Findings;
}

const At = { l1Entries: 8, idLength: 12, nameLength: 14, extraLength: 36 } as const;
/** Up to and including the disk size: version 3 demands it. */
const NEEDED_EXTRA = 16;
/** The longest that an entry can be without too much extra data. */
const MAX_ENTRY = SNAPSHOT_FIXED + MAX_SNAPSHOT_EXTRA + 2 * 65535 + 8;

/**
 * Reads the snapshot table ("Snapshots"). What it says wrong is counted apart: all of it is mended by writing the table
 * anew, once the refcounts are right. Throws where the table can't be understood.
 */
export async function readSnapshotTable(image: CheckedImage, fix: Fix): Promise<SnapshotTable> {
  const { header, storage } = image;
  const table: SnapshotTable = { entries: [], bytes: 0, findings: noFindings() };
  if (header.snapshotCount === 0) return table;
  // The last cluster belongs to the table as a whole, also where the file ends inside it.
  const there = Math.max(0, image.clusters * image.geometry.clusterSize - header.snapshotsOffset);
  const bytes = Buffer.alloc(Math.min(there, header.snapshotCount * MAX_ENTRY, MAX_SNAPSHOT_TABLE_BYTES));
  await readPadded(storage, header.snapshotsOffset, bytes);
  for (let index = 0; index < header.snapshotCount; index += 1) {
    table.bytes += readEntry({ image, bytes, table, fix }, index);
  }
  return table;
}

interface Reading {
  image: CheckedImage;
  bytes: Buffer;
  table: SnapshotTable;
  fix: Fix;
}

/** @returns bytes of the entry */
function readEntry({ image, bytes, table, fix }: Reading, index: number): number {
  const at = table.bytes;
  if (at + SNAPSHOT_FIXED > bytes.length) throw cutOff(image);
  const extra = bytes.readUInt32BE(at + At.extraLength);
  const rest = bytes.readUInt16BE(at + At.idLength) + bytes.readUInt16BE(at + At.nameLength);
  if (extra > MAX_SNAPSHOT_EXTRA) refuseExtra(image, table, fix, { index, extra });
  const restAt = at + SNAPSHOT_FIXED + extra;
  if (restAt + rest > bytes.length) throw cutOff(image);
  if (image.header.version >= 3 && extra < NEEDED_EXTRA) {
    image.report(`${fix.errors ? 'Repairing' : 'ERROR'} snapshot table entry ${index} is incomplete`);
    table.findings.corruptions += 1;
  }
  const fixed = Buffer.from(bytes.subarray(at, at + SNAPSHOT_FIXED));
  const kept = Math.min(extra, MAX_SNAPSHOT_EXTRA);
  // The decoder refuses what is wrong here; the check has to say it, and to go on.
  fixed.writeUInt32BE(0, At.l1Entries);
  fixed.writeUInt32BE(kept, At.extraLength);
  const extraAt = at + SNAPSHOT_FIXED;
  const parts = [fixed, bytes.subarray(extraAt, extraAt + kept), bytes.subarray(restAt, restAt + rest)];
  const entry = decodeSnapshotEntry(Buffer.concat(parts), 0);
  table.entries.push({ ...entry, l1Entries: bytes.readUInt32BE(at + At.l1Entries) });
  return alignUp(SNAPSHOT_FIXED + extra + rest, 8);
}

function refuseExtra(
  image: CheckedImage,
  table: SnapshotTable,
  fix: Fix,
  { index, extra }: { index: number; extra: number },
): void {
  const what = `too much extra metadata in snapshot table entry ${index}`;
  if (fix.errors) {
    image.report(`Discarding ${what} (${extra} > ${MAX_SNAPSHOT_EXTRA})`);
    table.findings.corruptions += 1;
    return;
  }
  image.report(`ERROR failed to read the snapshot table: T${what.slice(1)}`, true);
  image.report('You can force-remove this extra metadata with qemu-img check -r all');
  throw new ImageError('corrupt', 'File too large', { file: image.storage.name, format: 'qcow2' });
}

function cutOff({ storage, header }: CheckedImage): ImageError {
  return new ImageError('corrupt', 'The snapshot table is cut off by the end of the file', {
    file: storage.name,
    format: 'qcow2',
    offset: header.snapshotsOffset,
  });
}
