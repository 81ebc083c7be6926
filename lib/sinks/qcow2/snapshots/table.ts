import { ImageError } from '../../../core/errors.ts';
import {
  encodeSnapshotEntry,
  MAX_SNAPSHOT_EXTRA,
  MAX_SNAPSHOT_TABLE_BYTES,
  SNAPSHOT_FIXED,
  type SnapshotEntry,
  snapshotEntryLength,
} from '../../../layouts/qcow2/index.ts';
import { readSnapshots } from '../../../sources/qcow2/snapshots.ts';
import type { Qcow2Image } from '../image.ts';
import type { ClusterRun } from '../refcounts.ts';

/** A snapshot as the table has it. */
export interface TableEntry extends SnapshotEntry {
  /** The entry's own bytes, with padding: names need not be UTF-8, and shall stay what they are. */
  readonly raw: Buffer;
}

export interface SnapshotTable {
  entries: TableEntry[];
  /** Where it lies; bytes 0: there is none. */
  offset: number;
  bytes: number;
}

/** The table that the header names. */
export async function readTable(image: Qcow2Image): Promise<SnapshotTable> {
  const { storage, header } = image;
  const decoded = await readSnapshots(storage, header);
  const offset = header.snapshotsOffset;
  const most = decoded.reduce((sum, each) => sum + longest(each), 0);
  const bytes = Buffer.alloc(Math.min(most, Math.max(0, storage.size - offset)));
  if (bytes.length > 0) await storage.read(offset, bytes);
  let at = 0;
  const entries = decoded.map((entry) => {
    const length = snapshotEntryLength(bytes, at);
    const raw = Buffer.alloc(length);
    // The last entry's padding may lie past the end of the file.
    bytes.copy(raw, 0, at, at + length);
    at += length;
    return { ...entry, raw };
  });
  return { entries, offset, bytes: at };
}

/** Bytes that the entry can't exceed; a text that is not UTF-8 has become longer by decoding. */
function longest({ id, name }: SnapshotEntry): number {
  return SNAPSHOT_FIXED + MAX_SNAPSHOT_EXTRA + Buffer.byteLength(id) + Buffer.byteLength(name) + 8;
}

/** The bytes of a new entry. */
export function newEntry(entry: SnapshotEntry, image: Qcow2Image): Buffer {
  return encodeSnapshotEntry(entry, image.header.size);
}

/** What version 3 demands of every entry: the 64-bit state size and the disk size. */
const NEEDED_EXTRA = 16;
const EXTRA_LENGTH_AT = 36;

/**
 * Writes a table of these entries to a new place, where nothing refers to it yet. Entries of old images are completed by the disk
 * size.
 */
export async function placeTable(image: Qcow2Image, entries: readonly (TableEntry | Buffer)[]): Promise<ClusterRun> {
  const { clusterSize } = image.geometry;
  const table = Buffer.concat(entries.map((entry) => (Buffer.isBuffer(entry) ? entry : bytesOf(entry, image))));
  if (table.length === 0) return { offset: 0, clusters: 0 };
  if (table.length > MAX_SNAPSHOT_TABLE_BYTES) {
    throw new ImageError('no-space', 'The snapshot table can grow no further', { code: 'EFBIG' });
  }
  const clusters = Math.ceil(table.length / clusterSize);
  const offset = await image.refcounts.allocateTogether(clusters);
  const run = { offset, clusters };
  image.checkAllocated(run);
  await image.storage.write(offset, Buffer.concat([table], clusters * clusterSize));
  return run;
}

function bytesOf(entry: TableEntry, image: Qcow2Image): Buffer {
  const isComplete = entry.raw.readUInt32BE(EXTRA_LENGTH_AT) >= NEEDED_EXTRA;
  return isComplete ? entry.raw : encodeSnapshotEntry(entry, image.header.size);
}
