import { formatSize } from '../../core/units.ts';
import type { SnapshotInfo } from '../../sources/source.ts';

/** The table of internal snapshots, as `info` and `snapshot -l` print it; one string a line. */
export function renderSnapshots(snapshots: readonly SnapshotInfo[]): string[] {
  const header = ['VM SIZE', 'DATE', 'VM CLOCK', 'ICOUNT'];
  const titles = header.map((title, index) => title.padStart(WIDTHS[index])).join('');
  return [`${'ID'.padEnd(10)}${'TAG'.padEnd(17)}${titles}`, ...snapshots.map(renderSnapshot)];
}

// Columns after ID and TAG.
const WIDTHS = [8, 20, 13, 11];

function renderSnapshot(snapshot: SnapshotInfo): string {
  const cells = [
    formatSize(snapshot.vmStateSize),
    localTime(snapshot.dateSeconds),
    clock(snapshot.vmClockNanoseconds),
    snapshot.icount === -1n ? '' : String(snapshot.icount),
  ];
  const columns = cells.map((cell, index) => cell.padStart(WIDTHS[index])).join('');
  return `${padBytes(snapshot.id, 9)} ${padBytes(snapshot.name, 16)} ${columns}`;
}

/** Columns are counted in bytes, not characters, as printf(3) does. */
function padBytes(text: string, width: number): string {
  return text + ' '.repeat(Math.max(0, width - Buffer.byteLength(text)));
}

function localTime(seconds: number): string {
  const date = new Date(seconds * 1000);
  const day = [date.getFullYear(), two(date.getMonth() + 1), two(date.getDate())].join('-');
  return `${day} ${[date.getHours(), date.getMinutes(), date.getSeconds()].map(two).join(':')}`;
}

function clock(nanoseconds: bigint): string {
  const milliseconds = String((nanoseconds / 1_000_000n) % 1000n).padStart(3, '0');
  const seconds = nanoseconds / 1_000_000_000n;
  return `${two(seconds / 3600n)}:${two((seconds / 60n) % 60n)}:${two(seconds % 60n)}.${milliseconds}`;
}

function two(value: number | bigint): string {
  return String(value).padStart(2, '0');
}
