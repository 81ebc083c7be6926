import { alignDown, alignUp } from '../../core/binary.ts';
import type { Page } from '../pages.ts';
import type { GuestRange } from '../zeros.ts';
import { type ClusterState, fullMask, readCluster, releaseCluster, touchedMask, writeCluster } from './cluster.ts';
import { isBacked } from './cow.ts';
import type { Qcow2Image } from './image.ts';

/** What a range shall become. */
export type Clearing =
  | 'zero' // reads as zeros; host clusters stay
  | 'unmap' // reads as zeros; host clusters are given back
  | 'discard'; // need not read as anything; host clusters are given back

/** A guest range under one L2 table. */
export interface ClearRequest {
  l1Index: number;
  start: number;
  end: number;
  clearing: Clearing;
  /** Where the disk ends, or will end when it has grown. */
  diskEnd: number;
}

/**
 * Turns the range into zero clusters (or zero subclusters), as far as entries can say it.
 * @returns guest ranges for which they can't, and to which zeros have to be written
 */
export async function clearSegment(image: Qcow2Image, request: ClearRequest): Promise<GuestRange[]> {
  const { subclusterSize } = image.geometry;
  const left: GuestRange[] = [];
  // The disk may end within a cluster, whose rest nobody reads.
  const atEnd = request.end >= request.diskEnd;
  const start = alignUp(request.start, subclusterSize);
  const end = atEnd ? alignUp(request.end, subclusterSize) : alignDown(request.end, subclusterSize);
  return image.metadata.run(async () => {
    const edges = [
      { start: request.start, end: Math.min(start, request.end) },
      { start: Math.max(start, Math.min(end, request.end)), end: request.end },
    ];
    if (request.clearing !== 'discard') {
      for (const edge of edges) if (edge.start < edge.end && !(await readsAsZero(image, edge.start))) left.push(edge);
    }
    if (start < end) await clearWhole(image, { ...request, start, end }, left);
    return left;
  });
}

/** Whether the subcluster at guest `offset` is known to hold only zeros. */
async function readsAsZero(image: Qcow2Image, offset: number): Promise<boolean> {
  const { clusterSize, l2Coverage, l2Entries } = image.geometry;
  const page = await image.table(Math.floor(offset / l2Coverage));
  if (page === null) return !isBacked(image, offset);
  page.pins -= 1;
  const state = readCluster(image, page.bytes, Math.floor(offset / clusterSize) % l2Entries);
  const bit = touchedMask(image, offset % clusterSize, (offset % clusterSize) + 1);
  if ((state.zero & bit) !== 0) return true;
  return state.compressedLength === 0 && (state.allocated & bit) === 0 && !isBacked(image, offset);
}

async function clearWhole(image: Qcow2Image, request: ClearRequest, left: GuestRange[]): Promise<void> {
  const { clusterSize, l2Entries } = image.geometry;
  const base = request.l1Index * l2Entries * clusterSize;
  if (await isUntouched(image, request)) return;
  const page = await image.tableForWrite(request.l1Index);
  try {
    for (let at = request.start; at < request.end; ) {
      const index = Math.floor((at - base) / clusterSize);
      const clusterStart = base + index * clusterSize;
      const end = Math.min(request.end, clusterStart + clusterSize);
      const cleared = clearCluster(image, page, { index, start: at, end, clearing: request.clearing });
      if (!cleared) pushRange(left, at, Math.min(end, request.diskEnd));
      at = end;
    }
  } finally {
    page.pins -= 1;
  }
}

/** No table, and nothing behind it: the range reads as zeros already, and no table has to be made to say so. */
async function isUntouched(image: Qcow2Image, { l1Index, start }: ClearRequest): Promise<boolean> {
  if (isBacked(image, start)) return false;
  const page = await image.table(l1Index);
  if (page !== null) page.pins -= 1;
  return page === null;
}

interface ClusterRange extends GuestRange {
  index: number;
  clearing: Clearing;
}

/** Returns false where the entry can't say it. */
function clearCluster(image: Qcow2Image, page: Page, range: ClusterRange): boolean {
  const { clusterSize } = image.geometry;
  const old = readCluster(image, page.bytes, range.index);
  const from = range.start % clusterSize;
  const mask = touchedMask(image, from, from + (range.end - range.start));
  const whole = mask === fullMask(image);
  const empty = old.host < 0 && (old.zero & mask) === 0;
  // What is not there and has nothing behind it reads as zeros already.
  if (empty && !isBacked(image, range.start)) return true;
  if (image.header.version < 3) return clearOldCluster(image, page, range, old);
  if (old.compressedLength > 0 && !whole) return range.clearing === 'discard';
  if (range.clearing === 'discard' && !whole) return true;
  const keep = old.host >= 0 && old.compressedLength === 0 && (range.clearing === 'zero' || !whole);
  if (keep && (old.zero & mask) >>> 0 === mask) return true;
  writeCluster(image, page.bytes, range.index, {
    host: keep ? old.host : -1,
    copied: old.copied,
    allocated: keep ? old.allocated & ~mask : 0,
    zero: old.zero | mask,
  });
  page.dirty = true;
  if (!keep) releaseCluster(image, old);
  return true;
}

/** Version 2 has no zero clusters: only an image without backing file can give a cluster up. */
function clearOldCluster(image: Qcow2Image, page: Page, { index, start, clearing }: ClusterRange, old: ClusterState) {
  if (isBacked(image, start)) return clearing === 'discard';
  writeCluster(image, page.bytes, index, { host: -1, copied: false, allocated: 0, zero: 0 });
  page.dirty = true;
  releaseCluster(image, old);
  return true;
}

function pushRange(ranges: GuestRange[], start: number, end: number): void {
  const last = ranges.length > 0 ? ranges[ranges.length - 1] : undefined;
  if (last !== undefined && last.end === start) last.end = end;
  else if (start < end) ranges.push({ start, end });
}
