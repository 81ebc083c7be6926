import { NOT_PLAIN_HIGH, OFFSET_HIGH, ZERO_LOW } from '../../../layouts/qcow2/index.ts';
import type { PageImage } from '../../pages.ts';
import { readCluster } from '../cluster.ts';
import type { Qcow2Image } from '../image.ts';
import type { ClusterRuns } from './runs.ts';

/** One table on its way. */
interface Scan {
  image: Qcow2Image;
  bytes: Buffer;
  view: DataView;
  /** Is told of what is found. */
  runs: ClusterRuns;
  /** Clusters that the file has. */
  clusters: number;
  /** Bits of an entry's lower half that only the slow path understands. */
  notPlainLow: number;
}

/** Adds the clusters that an L2 table and its entries refer to. `corrupt` for entries that can't be right. */
export function addClusters(image: Qcow2Image, { offset, bytes }: PageImage, runs: ClusterRuns): void {
  const { clusterSize, l2Entries, extendedL2 } = image.geometry;
  const within = clusterSize - 1;
  const scan: Scan = {
    image,
    bytes,
    view: new DataView(bytes.buffer, bytes.byteOffset, bytes.length),
    runs,
    clusters: Math.ceil(image.storage.size / clusterSize),
    notPlainLow: image.header.version < 3 ? within : within & ~ZERO_LOW,
  };
  runs.add(offset / clusterSize, 1);
  for (let index = 0; index < l2Entries; index += 1) {
    // Subclusters say more than a look at an entry can tell.
    if (!extendedL2) index = addPlain(scan, index);
    if (index < l2Entries) addAny(scan, index);
  }
}

/**
 * The hot path: entries from `start` on that say nothing, or an aligned cluster of the file and flags. Clusters that follow one another
 * are added together.
 * @returns the first entry that says anything else
 */
function addPlain(scan: Scan, start: number): number {
  const { view, clusters, notPlainLow } = scan;
  const { clusterSize, clusterBits, l2Entries } = scan.image.geometry;
  const perHigh = 0x1_0000_0000 / clusterSize;
  let first = 0;
  let end = 0;
  let from = start;
  let index = start;
  // What the next entry is if it goes on where this one ends, flags included.
  let nextHigh = -1;
  let nextLow = -1;
  for (; index < l2Entries; index += 1) {
    const high = view.getUint32(index * 8);
    const low = view.getUint32(index * 8 + 4);
    if (low === nextLow && high === nextHigh) {
      nextLow += clusterSize;
      end += 1;
      continue;
    }
    if ((high & NOT_PLAIN_HIGH) !== 0 || (low & notPlainLow) !== 0) break;
    const cluster = (high & OFFSET_HIGH) * perHigh + (low >>> clusterBits);
    if (cluster === 0) continue;
    if (cluster >= clusters) break;
    if (cluster !== end) {
      if (end !== first) addRun(scan, { first, end, from, to: index });
      first = cluster;
      from = index;
    }
    end = cluster + 1;
    nextHigh = high;
    nextLow = low + clusterSize;
  }
  if (end !== first) addRun(scan, { first, end, from, to: index });
  return index;
}

/** Adds clusters [first, end), which entries [from, to) refer to. */
function addRun(
  { image, bytes, runs }: Scan,
  { first, end, from, to }: { first: number; end: number; from: number; to: number },
): void {
  if (image.occupied.touches(first, end - first)) {
    // One of them takes metadata for data: the slow path finds it, and refuses it.
    for (let index = from; index < to; index += 1) readCluster(image, bytes, index);
  }
  runs.add(first, end - first);
}

function addAny({ image, bytes, view, runs }: Scan, index: number): void {
  const { clusterSize, l2EntrySize } = image.geometry;
  const at = index * l2EntrySize;
  if (view.getUint32(at) === 0 && view.getUint32(at + 4) === 0) return;
  const { host, compressedLength } = readCluster(image, bytes, index);
  if (host < 0) return;
  const first = Math.floor(host / clusterSize);
  runs.add(first, compressedLength === 0 ? 1 : Math.floor((host + compressedLength - 1) / clusterSize) - first + 1);
}
