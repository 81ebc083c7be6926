import { orderedEntries } from '../../core/key-order.ts';
import { formatSize } from '../../core/units.ts';
import type { ImageInfo } from '../../pipelines/info.ts';
import type { InfoValue, SnapshotInfo } from '../../sources/source.ts';
import type { Json } from './json.ts';
import { renderSnapshots } from './snapshots.ts';

/** `info` for people: a paragraph for one image, ending in a newline. */
export function renderInfo(info: ImageInfo): string {
  const lines = [
    `image: ${info.filename}`,
    `file format: ${info.format}`,
    `virtual size: ${formatSize(info.virtualSize)} (${info.virtualSize} bytes)`,
    `disk size: ${info.actualSize === null ? 'unavailable' : formatSize(info.actualSize)}`,
  ];
  if (info.encrypted) lines.push('encrypted: yes');
  if (info.clusterSize !== null) lines.push(`cluster_size: ${info.clusterSize}`);
  if (info.dirty) lines.push('cleanly shut down: no');
  if (info.backingFilename !== null) lines.push(renderBacking(info));
  if (info.backingFormat !== null) lines.push(`backing file format: ${info.backingFormat}`);
  if (info.snapshots.length > 0) lines.push('Snapshot list:', ...renderSnapshots(info.snapshots));
  if (info.formatSpecific !== null) {
    lines.push('Format specific information:', ...renderMembers(info.formatSpecific.data, '    '));
  }
  return `${lines.join('\n')}\n`;
}

function renderBacking({ backingFilename, fullBackingFilename }: ImageInfo): string {
  const line = `backing file: ${backingFilename}`;
  if (fullBackingFilename === null) return `${line} (cannot determine actual path)`;
  return fullBackingFilename === backingFilename ? line : `${line} (actual path: ${fullBackingFilename})`;
}

function renderMembers(value: InfoValue[] | { [key: string]: InfoValue }, indent: string): string[] {
  const members: [string, InfoValue][] = Array.isArray(value)
    ? value.map((each, index) => [`[${index}]`, each])
    : orderedEntries(value).map(([key, each]) => [key.replaceAll('-', ' '), each]);
  return members.flatMap(([name, each]) =>
    typeof each === 'object'
      ? [`${indent}${name}:`, ...renderMembers(each, `${indent}    `)]
      : [`${indent}${name}: ${each}`],
  );
}

/** `info --output=json`, in QAPI's names. */
export function infoToJson(info: ImageInfo): Json {
  return {
    filename: info.filename,
    format: info.format,
    'virtual-size': info.virtualSize,
    'actual-size': info.actualSize ?? undefined,
    'dirty-flag': info.dirty ?? undefined,
    'cluster-size': info.clusterSize ?? undefined,
    encrypted: info.encrypted || undefined,
    compressed: info.compressed || undefined,
    'backing-filename': info.backingFilename ?? undefined,
    'full-backing-filename': info.fullBackingFilename ?? undefined,
    'backing-filename-format': info.backingFormat ?? undefined,
    snapshots: info.snapshots.length > 0 ? info.snapshots.map(snapshotToJson) : undefined,
    'format-specific': info.formatSpecific ?? undefined,
  };
}

function snapshotToJson(snapshot: SnapshotInfo): Json {
  const clock = snapshot.vmClockNanoseconds;
  return {
    id: snapshot.id,
    name: snapshot.name,
    'vm-state-size': snapshot.vmStateSize,
    'date-sec': snapshot.dateSeconds,
    'date-nsec': snapshot.dateNanoseconds,
    'vm-clock-sec': clock / 1_000_000_000n,
    'vm-clock-nsec': clock % 1_000_000_000n,
    icount: snapshot.icount === -1n ? undefined : snapshot.icount,
  };
}
