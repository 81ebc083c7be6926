import { alignUp, readU64BE, writeU64BE } from '../../core/binary.ts';
import { ensure } from '../../core/errors.ts';
import { MAX_L1_BYTES, MAX_SNAPSHOT_EXTRA, MAX_SNAPSHOT_TABLE_BYTES } from './constants.ts';

/** An entry of the snapshot table ("Snapshots"). */
export interface SnapshotEntry {
  l1Offset: number;
  l1Entries: number;
  id: string;
  name: string;
  dateSeconds: number;
  dateNanoseconds: number;
  vmClockNanoseconds: bigint;
  /** Bytes, from the extra data where it is there, else from the 32-bit field. */
  vmStateSize: number;
  /** Guest disk size when it was taken; null in old images, which means the present one. */
  diskSize: number | null;
  /** Guest instructions executed; null where it isn't recorded. */
  icount: bigint | null;
  /** Extra data behind the fields known here, kept for rewriting. */
  unknownExtra: Buffer;
}

/** Bytes before extra data, id and name. */
export const SNAPSHOT_FIXED = 40;
const At = {
  l1Offset: 0,
  l1Entries: 8,
  idLength: 12,
  nameLength: 14,
  dateSeconds: 16,
  dateNanoseconds: 20,
  vmClock: 24,
  vmStateSize: 32,
  extraLength: 36,
  // Inside the extra data:
  vmStateSizeLarge: 0,
  diskSize: 8,
  icount: 16,
} as const;
const KNOWN_EXTRA = 24;
const NO_ICOUNT = 0xffff_ffff_ffff_ffffn;

/** Bytes of the entry whose fixed part begins at `at` of `table`, with padding; `corrupt` where it lies. */
export function snapshotEntryLength(table: Buffer, at: number): number {
  const extra = table.readUInt32BE(at + At.extraLength);
  ensure(extra <= MAX_SNAPSHOT_EXTRA, 'Too much extra metadata in snapshot table entry', { offset: at });
  const length = SNAPSHOT_FIXED + extra + table.readUInt16BE(at + At.idLength) + table.readUInt16BE(at + At.nameLength);
  return alignUp(length, 8);
}

/** Decodes the entry at `at`, all of which must be in `table` (see `snapshotEntryLength`). */
export function decodeSnapshotEntry(table: Buffer, at: number): SnapshotEntry {
  ensure(at + SNAPSHOT_FIXED <= table.length, 'The snapshot table ends within an entry', { offset: at });
  const idLength = table.readUInt16BE(at + At.idLength);
  const nameLength = table.readUInt16BE(at + At.nameLength);
  const extra = table.readUInt32BE(at + At.extraLength);
  const extraAt = at + SNAPSHOT_FIXED;
  const idAt = extraAt + extra;
  ensure(extra <= MAX_SNAPSHOT_EXTRA, 'Too much extra metadata in snapshot table entry', { offset: at });
  ensure(idAt + idLength + nameLength <= table.length, 'The snapshot table ends within an entry', { offset: at });
  const l1Entries = table.readUInt32BE(at + At.l1Entries);
  ensure(l1Entries * 8 <= MAX_L1_BYTES, 'Snapshot L1 table too large', { offset: at });
  const icount = extra >= 24 ? table.readBigUInt64BE(extraAt + At.icount) : NO_ICOUNT;
  return {
    l1Offset: readU64BE(table, at + At.l1Offset, "A snapshot's L1 table offset"),
    l1Entries,
    id: table.toString('utf8', idAt, idAt + idLength),
    name: table.toString('utf8', idAt + idLength, idAt + idLength + nameLength),
    dateSeconds: table.readUInt32BE(at + At.dateSeconds),
    dateNanoseconds: table.readUInt32BE(at + At.dateNanoseconds),
    vmClockNanoseconds: table.readBigUInt64BE(at + At.vmClock),
    vmStateSize:
      extra >= 8
        ? readU64BE(table, extraAt + At.vmStateSizeLarge, "A snapshot's state size")
        : table.readUInt32BE(at + At.vmStateSize),
    diskSize: extra >= 16 ? readU64BE(table, extraAt + At.diskSize, "A snapshot's disk size") : null,
    icount: icount === NO_ICOUNT ? null : icount,
    unknownExtra: Buffer.from(table.subarray(extraAt + Math.min(extra, KNOWN_EXTRA), idAt)),
  };
}

/**
 * Decodes `count` entries.
 * @param table the file's bytes from the snapshot table on, as far as they may matter
 */
export function decodeSnapshotTable(table: Buffer, count: number): SnapshotEntry[] {
  const entries: SnapshotEntry[] = [];
  let at = 0;
  for (let index = 0; index < count; index += 1) {
    ensure(at <= MAX_SNAPSHOT_TABLE_BYTES, 'Snapshot table is too large', { offset: at });
    entries.push(decodeSnapshotEntry(table, at));
    at += snapshotEntryLength(table, at);
  }
  return entries;
}

/** The entry with all extra data known today; a null disk size can't be written and is `fallbackSize`. */
export function encodeSnapshotEntry(entry: SnapshotEntry, fallbackSize: number): Buffer {
  const id = Buffer.from(entry.id, 'utf8');
  const name = Buffer.from(entry.name, 'utf8');
  const extra = KNOWN_EXTRA + entry.unknownExtra.length;
  const bytes = Buffer.alloc(alignUp(SNAPSHOT_FIXED + extra + id.length + name.length, 8));
  writeU64BE(bytes, At.l1Offset, entry.l1Offset);
  bytes.writeUInt32BE(entry.l1Entries, At.l1Entries);
  bytes.writeUInt16BE(id.length, At.idLength);
  bytes.writeUInt16BE(name.length, At.nameLength);
  bytes.writeUInt32BE(entry.dateSeconds, At.dateSeconds);
  bytes.writeUInt32BE(entry.dateNanoseconds, At.dateNanoseconds);
  bytes.writeBigUInt64BE(entry.vmClockNanoseconds, At.vmClock);
  // A size that needs 64 bits stands in the extra data only.
  bytes.writeUInt32BE(entry.vmStateSize <= 0xffff_ffff ? entry.vmStateSize : 0, At.vmStateSize);
  bytes.writeUInt32BE(extra, At.extraLength);
  writeU64BE(bytes, SNAPSHOT_FIXED + At.vmStateSizeLarge, entry.vmStateSize);
  writeU64BE(bytes, SNAPSHOT_FIXED + At.diskSize, entry.diskSize ?? fallbackSize);
  bytes.writeBigUInt64BE(entry.icount ?? NO_ICOUNT, SNAPSHOT_FIXED + At.icount);
  entry.unknownExtra.copy(bytes, SNAPSHOT_FIXED + KNOWN_EXTRA);
  id.copy(bytes, SNAPSHOT_FIXED + extra);
  name.copy(bytes, SNAPSHOT_FIXED + extra + id.length);
  return bytes;
}
