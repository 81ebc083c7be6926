import { ImageError } from '../../core/errors.ts';
import { Block } from '../../sources/block-table.ts';
import { growTo } from '../zeros.ts';
import { writeBytes, zeroBytes } from './bytes.ts';
import type { Allocation, BlockStore, TablePage } from './store.ts';

/** Consecutive guest blocks of one table page that lie together in the host file. */
interface Piece {
  /** First block, and how many. */
  block: number;
  blocks: number;
  /** Host offset of the first block. */
  host: number;
  /** Made for this write; null where the blocks are there already. */
  made: Allocation | null;
  /** What the first and the last block were before. */
  first: number;
  last: number;
}

/** A part of a write that lies under one table page. */
export interface Segment {
  /** Guest range, and its bytes. */
  start: number;
  end: number;
  bytes: Buffer;
}

/** Bytes that copy-on-write moves at once. */
const COPY_BYTES = 1024 * 1024;

/**
 * Writes guest bytes under one table page: finds or allocates the blocks, writes the data with what copy-on-write
 * demands, and only then lets the table refer to new blocks. A write that fails gives them back. The caller
 * holds the blocks.
 */
export async function writeSegment(store: BlockStore, segment: Segment): Promise<void> {
  const { page, pieces } = await store.tables.lock.run(() => plan(store, segment));
  try {
    try {
      for (const piece of pieces) await writePiece(store, { segment, piece, page });
    } catch (error) {
      await store.tables.lock.run(async () => takeBack(store, pieces));
      throw error;
    }
    // Without an await: nobody sees half of it.
    for (const piece of pieces) if (piece.made !== null) link(store, page, piece);
  } finally {
    page.release();
  }
}

function link({ blockSize }: BlockStore, page: TablePage, { block, blocks, host }: Piece): void {
  for (let done = 0; done < blocks; done += 1) page.set(block + done, host + done * blockSize);
}

function takeBack(store: BlockStore, pieces: readonly Piece[]): void {
  // The last one first: what lies at the end of the file can then be taken back whole.
  for (const { made } of [...pieces].reverse()) if (made !== null) store.takeBack?.(made);
}

async function plan(store: BlockStore, segment: Segment): Promise<{ page: TablePage; pieces: Piece[] }> {
  const { blockSize } = store;
  const pieces: Piece[] = [];
  const first = Math.floor(segment.start / blockSize);
  const stop = Math.ceil(segment.end / blockSize);
  const page = await store.tables.pageForWrite(first);
  try {
    for (let block = first; block < stop; ) {
      const piece = await nextPiece(store, page, block, stop);
      pieces.push(piece);
      block += piece.blocks;
    }
    return { page, pieces };
  } catch (error) {
    page.release();
    takeBack(store, pieces);
    throw error;
  }
}

async function nextPiece(store: BlockStore, page: TablePage, block: number, stop: number): Promise<Piece> {
  const first = checkedEntry(store, page, block);
  let blocks = 1;
  let last = first;
  // Blocks go on as one piece: all new, or there and next to each other.
  for (; block + blocks < stop; blocks += 1) {
    const next = checkedEntry(store, page, block + blocks);
    if (first < 0 ? next >= 0 : next !== first + blocks * store.blockSize) break;
    last = next;
  }
  if (first >= 0) {
    await store.touch?.(block, blocks, first);
    return { block, blocks, host: first, made: null, first, last };
  }
  const made = await store.allocate(blocks, block);
  if (made.blocks < blocks) last = checkedEntry(store, page, block + made.blocks - 1);
  return { block, blocks: made.blocks, host: made.host, made, first, last };
}

export function checkedEntry(store: BlockStore, page: TablePage, block: number): number {
  const entry = page.entry(block);
  if (entry !== Block.mixed) return entry;
  throw new ImageError('unsupported', 'A block that is only partly there cannot be written', {
    file: store.name,
    format: store.format,
    offset: block * store.blockSize,
  });
}

interface PieceWrite {
  segment: Segment;
  piece: Piece;
  page: TablePage;
}

async function writePiece(store: BlockStore, { segment, piece, page }: PieceWrite): Promise<void> {
  const { blockSize, data } = store;
  const base = piece.block * blockSize;
  const stop = base + piece.blocks * blockSize;
  const start = Math.max(segment.start, base);
  const end = Math.min(segment.end, stop);
  const host = (offset: number) => piece.host + (offset - base);
  const bytes = segment.bytes.subarray(start - segment.start, end - segment.start);
  await writeBytes(store, { guest: start, host: host(start) }, bytes);
  if (piece.made === null) return;
  const { fresh } = piece.made;
  const lastBlock = piece.block + piece.blocks - 1;
  if (start > base) {
    await fillOld(store, page, {
      block: piece.block,
      entry: piece.first,
      start: base,
      end: start,
      to: host(base),
      fresh,
    });
  }
  if (end < stop) {
    await fillOld(store, page, { block: lastBlock, entry: piece.last, start: end, end: stop, to: host(end), fresh });
  }
  // A file that ends within a block ends too early for its readers.
  await growTo(data, host(stop));
}

interface OldBytes {
  block: number;
  /** What the block was before. */
  entry: number;
  /** Guest range, in the block. */
  start: number;
  end: number;
  /** Host offset that the range gets. */
  to: number;
  /** The host range reads as zeros already. */
  fresh: boolean;
}

/** Brings what a block held before to its new place, around what is written. */
async function fillOld(store: BlockStore, page: TablePage, old: OldBytes): Promise<void> {
  const { start, end, to } = old;
  if (old.entry === Block.packed) {
    const plain = await unpacked(store, page, old.block);
    const base = old.block * store.blockSize;
    return writeBytes(store, { guest: start, host: to }, plain.subarray(start - base, end - base));
  }
  const backed = old.entry === Block.unallocated ? backedUpTo(store, start, end) : start;
  await copyBacking(store, start, backed, to);
  const isZero = old.fresh && !store.cipher;
  if (backed < end && !isZero) await zeroBytes(store, { start: backed, end }, to + (backed - start));
}

async function unpacked({ packing, name, format }: BlockStore, page: TablePage, block: number): Promise<Buffer> {
  if (packing !== undefined) return packing.unpack(page, block);
  throw new ImageError('corrupt', 'A compressed block in a table that has none', { file: name, format });
}

/** Where in [start, end) the backing file's bytes end. */
function backedUpTo(store: BlockStore, start: number, end: number): number {
  if (!store.hasBacking) return start;
  if (store.backing === null) {
    throw new ImageError('refused', 'Parts of blocks cannot be written while the backing file is not open', {
      file: store.name,
      format: store.format,
      offset: start,
    });
  }
  return Math.max(start, Math.min(end, store.backing.size, store.size));
}

async function copyBacking(store: BlockStore, start: number, end: number, to: number): Promise<void> {
  if (start >= end) return;
  const buffer = Buffer.allocUnsafe(Math.min(COPY_BYTES, end - start));
  for (let at = start; at < end; at += buffer.length) {
    const part = buffer.subarray(0, Math.min(buffer.length, end - at));
    await store.backing?.read(at, part);
    await writeBytes(store, { guest: at, host: to + (at - start) }, part);
  }
}
