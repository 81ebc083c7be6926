import { ensure, ImageError } from '../../core/errors.ts';
import {
  decodeSnapshotTable,
  MAX_L1_BYTES,
  MAX_SNAPSHOT_TABLE_BYTES,
  type Qcow2Geometry,
  type Qcow2Header,
  type SnapshotEntry,
} from '../../layouts/qcow2/index.ts';
import type { Storage } from '../../storage/storage.ts';
import type { SnapshotInfo, SnapshotSelector } from '../source.ts';
import type { Qcow2SourceOptions } from './source.ts';
import { CachedTables } from './tables.ts';

/** How much of the table is read at first; its length stands nowhere, so a longer one is found by trying. */
const FIRST_LOOK = 64 * 1024;
const GROWTH = 16;

/** All entries of the snapshot table ("Snapshots"); `corrupt` where it contradicts itself or is cut off. */
export async function readSnapshots(
  storage: Storage,
  header: Pick<Qcow2Header, 'snapshotCount' | 'snapshotsOffset'>,
): Promise<SnapshotEntry[]> {
  const { snapshotCount, snapshotsOffset } = header;
  if (snapshotCount === 0) return [];
  ensure(snapshotsOffset < storage.size, 'The snapshot table lies past the end of the file', {
    offset: snapshotsOffset,
  });
  const most = Math.min(storage.size - snapshotsOffset, MAX_SNAPSHOT_TABLE_BYTES);
  for (let length = Math.min(FIRST_LOOK, most); ; length = Math.min(length * GROWTH, most)) {
    const table = Buffer.alloc(length);
    await storage.read(snapshotsOffset, table);
    try {
      return decodeSnapshotTable(table, snapshotCount);
    } catch (error) {
      if (length === most) throw located(error, snapshotsOffset);
    }
  }
}

/** Offsets that the decoder knows count from the table's beginning. */
function located(error: unknown, base: number): unknown {
  if (!(error instanceof ImageError)) return error;
  return new ImageError(error.kind, error.message, { offset: base + (error.offset ?? 0), cause: error });
}

/** What a source of the selected snapshot is made of: its own L1 table, and all else the image's. */
export async function snapshotSource(
  image: Qcow2SourceOptions,
  selector: SnapshotSelector,
): Promise<Qcow2SourceOptions> {
  const { storage, header, geometry } = image;
  const entry = findSnapshot(await readSnapshots(storage, header), selector);
  ensure(entry.l1Offset % geometry.clusterSize === 0, 'Snapshot L1 table offset invalid', { offset: entry.l1Offset });
  const l1 = await readL1(storage, entry.l1Offset, entry.l1Entries, geometry);
  // qemu-img reads a snapshot at the image's present size, which would cut off a disk that has shrunk since.
  const size = Math.max(header.size, Math.min(entry.diskSize ?? 0, entry.l1Entries * geometry.l2Coverage));
  const tables = new CachedTables(storage, l1, geometry);
  return { ...image, tables, size, owned: [] };
}

/** An L1 table; `corrupt` where it is not all in the file or overlaps the header. */
export async function readL1(
  storage: Storage,
  offset: number,
  entries: number,
  geometry: Qcow2Geometry,
): Promise<Buffer> {
  const length = entries * 8;
  ensure(length <= MAX_L1_BYTES, 'L1 table too large', { offset });
  ensure(length === 0 || offset >= geometry.clusterSize, 'The L1 table overlaps the header', { offset });
  ensure(offset + length <= storage.size, 'The L1 table lies past the end of the file', { offset });
  const l1 = Buffer.alloc(length);
  if (length > 0) await storage.read(offset, l1);
  return l1;
}

/**
 * The snapshot that is meant, as QEMU's `-l` resolves it: all given fields must match; a bare word is an id
 * first and a name only where no id matches.
 */
export function findSnapshot<E extends SnapshotEntry>(
  entries: readonly E[],
  { id, name, idOrName }: SnapshotSelector,
): E {
  const found =
    idOrName !== undefined
      ? (entries.find((each) => each.id === idOrName) ?? entries.find((each) => each.name === idOrName))
      : entries.find((each) => (id === undefined || each.id === id) && (name === undefined || each.name === name));
  if (found === undefined) throw new ImageError('missing', "Can't find snapshot");
  return found;
}

/** As `info` and `snapshot -l` show it. */
export function snapshotInfo(entry: SnapshotEntry, header: Qcow2Header): SnapshotInfo {
  return {
    id: entry.id,
    name: entry.name,
    vmStateSize: entry.vmStateSize,
    dateSeconds: entry.dateSeconds,
    dateNanoseconds: entry.dateNanoseconds,
    vmClockNanoseconds: entry.vmClockNanoseconds,
    icount: entry.icount ?? -1n,
    diskSize: entry.diskSize ?? header.size,
  };
}
