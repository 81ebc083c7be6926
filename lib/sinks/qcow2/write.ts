import { alignDown, alignUp } from '../../core/binary.ts';
import { allSettled } from '../../core/turns.ts';
import { encodeEntry } from '../../layouts/qcow2/index.ts';
import type { Page } from '../pages.ts';
import { growTo } from '../zeros.ts';
import { type ClusterState, fullMask, readCluster, releaseCluster, touchedMask, writeCluster } from './cluster.ts';
import { readOld } from './cow.ts';
import type { Qcow2Image } from './image.ts';
import type { Segment } from './segments.ts';

/** Consecutive guest clusters of one L2 table that lie together in the host file. */
interface Piece {
  /** What is written to it, and perhaps to others. */
  segment: Segment;
  /** First entry of the L2 table, and how many. */
  index: number;
  clusters: number;
  /** Host offset of the first cluster. */
  host: number;
  /** The clusters were allocated for this write. */
  isNew: boolean;
  /** New clusters that read as zeros: zeros need not be written. */
  fresh: boolean;
  /** Guest bytes to be written: those of the caller, and what copy-on-write adds around them. */
  from: number;
  to: number;
  /** What first and last cluster were before. */
  first: ClusterState;
  last: ClusterState;
}

/**
 * Writes guest bytes under one L2 table: finds or allocates the clusters, writes the data with what
 * copy-on-write demands, and only then lets the L2 table refer to new clusters. A write that fails gives
 * the new clusters back, which nothing refers to.
 * @param segments one at the least, ascending; no two of them touch the same cluster
 */
export async function writeSegments(image: Qcow2Image, segments: readonly Segment[]): Promise<void> {
  const { page, pieces } = await image.metadata.run(() => plan(image, segments));
  try {
    try {
      await writePieces(image, pieces);
    } catch (error) {
      await image.metadata.run(() => takeBack(image, pieces));
      throw error;
    }
    // Without an await: nobody sees half of it.
    for (const piece of pieces) link(image, page, piece);
  } finally {
    page.pins -= 1;
  }
}

async function plan(image: Qcow2Image, segments: readonly Segment[]): Promise<{ page: Page; pieces: Piece[] }> {
  const { clusterSize, l2Entries } = image.geometry;
  const [{ l1Index }] = segments;
  const firstCluster = l1Index * l2Entries;
  const page = await image.tableForWrite(l1Index);
  const pieces: Piece[] = [];
  try {
    for (const segment of segments) {
      const lastIndex = Math.ceil(segment.end / clusterSize) - 1 - firstCluster;
      let index = Math.floor(segment.start / clusterSize) - firstCluster;
      while (index <= lastIndex) {
        const piece = await nextPiece(image, page.bytes, { segment, index, lastIndex });
        pieces.push(piece);
        index += piece.clusters;
      }
    }
    return { page, pieces };
  } catch (error) {
    page.pins -= 1;
    await takeBack(image, pieces);
    throw error;
  }
}

async function nextPiece(
  image: Qcow2Image,
  table: Buffer,
  { segment, index, lastIndex }: { segment: Segment; index: number; lastIndex: number },
): Promise<Piece> {
  const first = readCluster(image, table, index);
  const isNew = !isInPlace(first);
  let last = first;
  let clusters = 1;
  // Clusters go on as one piece: all new, or in place and next to each other.
  while (index + clusters <= lastIndex) {
    const next = readCluster(image, table, index + clusters);
    if (isInPlace(next) === isNew) break;
    if (!isNew && next.host !== first.host + clusters * image.geometry.clusterSize) break;
    last = next;
    clusters += 1;
  }
  const piece: Piece = { segment, index, clusters, host: first.host, isNew, fresh: false, from: 0, to: 0, first, last };
  if (isNew) {
    await allocate(image, piece);
    if (piece.clusters < clusters) piece.last = readCluster(image, table, index + piece.clusters - 1);
  }
  setRange(image, piece);
  return piece;
}

/** Whether the host cluster is there, plain, and no one else's. */
function isInPlace(state: ClusterState): boolean {
  return state.host >= 0 && state.copied;
}

async function allocate(image: Qcow2Image, piece: Piece): Promise<void> {
  if (image.external) {
    // Data lie in the external file where the guest has them.
    piece.host = guestStart(image, piece);
    return;
  }
  const run = await image.refcounts.allocate(piece.clusters);
  image.checkAllocated(run);
  piece.host = run.offset;
  piece.clusters = run.clusters;
  // What a hole decrypts to is no zeros.
  piece.fresh = run.fresh && image.cipher === null;
}

/** Guest offset of the first cluster. */
function guestStart(image: Qcow2Image, { segment, index }: Piece): number {
  const { clusterSize, l2Entries } = image.geometry;
  return (segment.l1Index * l2Entries + index) * clusterSize;
}

/** Sets which guest bytes are written: whole subclusters where what surrounds the caller's bytes is not there yet. */
function setRange(image: Qcow2Image, piece: Piece): void {
  const { segment } = piece;
  const base = guestStart(image, piece);
  const end = base + piece.clusters * image.geometry.clusterSize;
  piece.from = base;
  if (segment.start > base) {
    piece.from = alignDown(segment.start, unitOf(image, piece, piece.first, segment.start));
  }
  piece.to = end;
  if (segment.end < end) piece.to = alignUp(segment.end, unitOf(image, piece, piece.last, segment.end - 1));
  // The external data file ends where the disk ends.
  if (image.external) piece.to = Math.max(segment.end, Math.min(piece.to, image.header.size));
}

/** Bytes that are written as a whole around guest offset `edge`. */
function unitOf(image: Qcow2Image, piece: Piece, state: ClusterState, edge: number): number {
  const { clusterSize, subclusterSize } = image.geometry;
  // What an old host cluster held must come along, since the entry can't point to two of them.
  if (piece.isNew) return state.host >= 0 ? clusterSize : subclusterSize;
  const within = edge % clusterSize;
  return (state.allocated & touchedMask(image, within, within + 1)) !== 0 ? 1 : subclusterSize;
}

/** Pieces that lie side by side in the host file, as new clusters do, are one write of it. */
async function writePieces(image: Qcow2Image, pieces: readonly Piece[]): Promise<void> {
  const writes: Promise<void>[] = [];
  for (let first = 0; first < pieces.length; ) {
    let end = first + 1;
    while (end < pieces.length && goesOn(image, pieces[end - 1], pieces[end])) end += 1;
    writes.push(end === first + 1 ? writePiece(image, pieces[first]) : writeRun(image, pieces.slice(first, end)));
    first = end;
  }
  await allSettled(writes);
}

function goesOn(image: Qcow2Image, last: Piece, next: Piece): boolean {
  if (image.cipher !== null || !isWhole(image, last) || !isWhole(image, next)) return false;
  return last.host + last.clusters * image.geometry.clusterSize === next.host;
}

/** Whether the caller's bytes are all that is written to it: up to the ends of its clusters. */
function isWhole(image: Qcow2Image, piece: Piece): boolean {
  const start = guestStart(image, piece);
  const end = start + piece.clusters * image.geometry.clusterSize;
  return piece.segment.start <= start && piece.segment.end >= end;
}

async function writeRun(image: Qcow2Image, pieces: readonly Piece[]): Promise<void> {
  const buffers = pieces.map(({ segment, from, to }) =>
    segment.bytes.subarray(from - segment.start, to - segment.start),
  );
  await image.data.writev(pieces[0].host, buffers);
}

async function writePiece(image: Qcow2Image, piece: Piece): Promise<void> {
  const { segment } = piece;
  const base = guestStart(image, piece);
  const start = Math.max(segment.start, piece.from);
  const end = Math.min(segment.end, piece.to);
  const bytes = segment.bytes.subarray(start - segment.start, end - segment.start);
  const buffers: Buffer[] = [bytes];
  let from = start;
  if (piece.from < start) {
    const head = await copied(image, piece, piece.first, piece.from, start - piece.from);
    if (head !== null) {
      buffers.unshift(head);
      from = piece.from;
    }
  }
  if (piece.to > end) {
    const tail = await copied(image, piece, piece.last, end, piece.to - end);
    if (tail !== null) buffers.push(tail);
  }
  const host = piece.host + (from - base);
  if (image.cipher !== null) await image.cipher.write(image.data, { guest: from, host }, buffers);
  else if (buffers.length === 1) await image.data.write(host, bytes);
  else await image.data.writev(host, buffers);
  await growTo(image.data, piece.host + (piece.to - base));
}

/** What copy-on-write has to write; null where the host file has it already. */
async function copied(
  image: Qcow2Image,
  piece: Piece,
  state: ClusterState,
  offset: number,
  length: number,
): Promise<Buffer | null> {
  const old = await readOld(image, state, offset, length);
  return old === null && !piece.fresh ? Buffer.alloc(length) : old;
}

function link(image: Qcow2Image, page: Page, piece: Piece): void {
  const { clusterSize, extendedL2, l2EntrySize } = image.geometry;
  const full = fullMask(image);
  for (let done = 0; done < piece.clusters; done += 1) {
    const index = piece.index + done;
    const old = done === 0 ? piece.first : readCluster(image, page.bytes, index);
    const host = piece.host + done * clusterSize;
    if (!extendedL2) {
      if (!piece.isNew && old.zero === 0) continue;
      encodeEntry(page.bytes, index * l2EntrySize, host, { copied: true });
    } else {
      // Whole clusters but for the edges of the piece.
      const from = done === 0 ? piece.from % clusterSize : 0;
      const to = done === piece.clusters - 1 ? ((piece.to - 1) % clusterSize) + 1 : clusterSize;
      const written = from === 0 && to === clusterSize ? full : touchedMask(image, from, to);
      if (!piece.isNew && (old.allocated & written) >>> 0 === written) continue;
      writeCluster(image, page.bytes, index, {
        host,
        copied: true,
        allocated: old.allocated | written,
        zero: old.zero & ~written,
      });
    }
    page.dirty = true;
    if (piece.isNew) releaseCluster(image, old);
  }
}

async function takeBack(image: Qcow2Image, pieces: Piece[]): Promise<void> {
  if (image.external) return;
  for (const { isNew, host, clusters } of pieces) {
    if (isNew) await image.refcounts.takeBack({ offset: host, clusters });
  }
}
