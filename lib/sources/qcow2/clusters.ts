import {
  ALL_SUBCLUSTERS,
  COPIED_HIGH,
  decodeCompressed,
  entryOffset,
  isCompressed,
  type Qcow2Geometry,
  SUBCLUSTERS,
  ZERO_LOW,
} from '../../layouts/qcow2/index.ts';
import { Run, RunBuilder, type RunSink } from '../runs.ts';
import { corrupt } from './context.ts';

/** What the walk needs to know of an image. */
export interface ClusterRules {
  file: string;
  version: 2 | 3;
  geometry: Qcow2Geometry;
  /** Data lie in a file of their own, where host and guest offsets are the same. */
  external: boolean;
}

/** A stretch of one L2 table, in guest bytes relative to the image. */
export interface TableStretch {
  table: Buffer;
  /** Host offset of the table, for messages. */
  tableOffset: number;
  /** Guest offset of the table's first cluster. */
  base: number;
  /** Guest range, inside the table's coverage. */
  start: number;
  end: number;
}

/**
 * Walks the entries of one L2 table ("L2 table entry") over a guest range and reports runs, which
 * neighbours of one kind share. One loop over the table's bytes: no object and no promise for a cluster.
 */
export function walkTable(stretch: TableStretch, rules: ClusterRules, sink: RunSink): void {
  const runs = new RunBuilder(sink, stretch.start, stretch.end);
  const { clusterSize, l2EntrySize, extendedL2 } = rules.geometry;
  const { table, base, start, end } = stretch;
  const first = Math.floor((start - base) / clusterSize);
  const last = Math.ceil((end - base) / clusterSize);
  for (let index = first; index < last; index += 1) {
    const at = index * l2EntrySize;
    const high = table.readUInt32BE(at);
    const low = table.readUInt32BE(at + 4);
    const guest = base + index * clusterSize;
    if (high === 0 && low === 0 && !extendedL2) {
      runs.add(Run.unallocated, guest, clusterSize, -1);
    } else if (isCompressed(high)) {
      addCompressed(runs, stretch, rules, index, high, low);
    } else {
      const host = hostOf(stretch, rules, index, high, low);
      if (extendedL2) addSubclusters(runs, stretch, rules, index, host);
      else if ((low & ZERO_LOW) !== 0) addZero(runs, stretch, rules, index, host);
      else runs.add(host < 0 ? Run.unallocated : Run.data, guest, clusterSize, host);
    }
  }
  runs.finish();
}

/** Host offset of an entry that is not compressed, or -1. Reserved bits are ignored, as QEMU does. */
function hostOf(stretch: TableStretch, rules: ClusterRules, index: number, high: number, low: number): number {
  const host = entryOffset(high, low);
  // In an external data file offset 0 is an ordinary place; the copied flag tells it from "none".
  if (host === 0 && !(rules.external && high >= COPIED_HIGH)) return -1;
  const { clusterSize } = rules.geometry;
  if (host % clusterSize !== 0 || host > Number.MAX_SAFE_INTEGER) {
    throw entryError(stretch, rules, index, `Cluster allocation offset 0x${host.toString(16)} unaligned`);
  }
  const guest = stretch.base + index * clusterSize;
  if (rules.external && host !== guest) {
    const name = `External data file host cluster offset 0x${host.toString(16)}`;
    throw entryError(stretch, rules, index, `${name} does not match guest cluster offset 0x${guest.toString(16)}`);
  }
  return host;
}

function addZero(runs: RunBuilder, stretch: TableStretch, rules: ClusterRules, index: number, host: number): void {
  if (rules.version < 3) throw entryError(stretch, rules, index, 'Zero cluster entry found in pre-v3 image');
  runs.add(Run.zero, stretch.base + index * rules.geometry.clusterSize, rules.geometry.clusterSize, host);
}

function addCompressed(
  runs: RunBuilder,
  stretch: TableStretch,
  rules: ClusterRules,
  index: number,
  high: number,
  low: number,
): void {
  if (rules.external) {
    throw entryError(stretch, rules, index, 'Compressed cluster entry found in image with external data file');
  }
  const { clusterSize, clusterBits } = rules.geometry;
  const guest = stretch.base + index * clusterSize;
  if (runs.sink.compressed !== undefined) {
    const { offset, length } = decodeCompressed(high, low, clusterBits);
    runs.finish();
    runs.sink.compressed(guest, offset, length);
    runs.skip(guest + clusterSize);
  } else {
    runs.add(Run.compressed, guest, clusterSize, -1);
  }
}

/** "Extended L2 Entries": for each subcluster one bit says allocated, another zero; never both. */
function addSubclusters(
  runs: RunBuilder,
  stretch: TableStretch,
  rules: ClusterRules,
  index: number,
  host: number,
): void {
  const { clusterSize, subclusterSize } = rules.geometry;
  const at = index * 16;
  const zero = stretch.table.readUInt32BE(at + 8);
  const allocated = stretch.table.readUInt32BE(at + 12);
  const guest = stretch.base + index * clusterSize;
  if ((zero & allocated) !== 0 || (host < 0 && allocated !== 0)) {
    throw entryError(stretch, rules, index, 'Invalid cluster entry found');
  }
  if (allocated === ALL_SUBCLUSTERS) {
    runs.add(Run.data, guest, clusterSize, host);
    return;
  }
  for (let bit = 0; bit < SUBCLUSTERS; bit += 1) {
    const kind = ((allocated >>> bit) & 1) === 1 ? Run.data : ((zero >>> bit) & 1) === 1 ? Run.zero : Run.unallocated;
    const place = host < 0 ? -1 : host + bit * subclusterSize;
    runs.add(kind, guest + bit * subclusterSize, subclusterSize, place);
  }
}

function entryError(stretch: TableStretch, rules: ClusterRules, index: number, message: string): Error {
  const place = `(L2 offset: 0x${stretch.tableOffset.toString(16)}, L2 index: 0x${index.toString(16)})`;
  return corrupt(`${message} ${place}`, rules.file, stretch.tableOffset + index * rules.geometry.l2EntrySize);
}
