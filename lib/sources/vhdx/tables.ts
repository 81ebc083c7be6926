import { LRUCache } from 'lru-cache';
import { ensure, ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import {
  BAT_ENTRY_LENGTH,
  BITMAP_LENGTH,
  BitmapState,
  bitmapIndex,
  entryOffset,
  entryState,
  HEADER_SECTION,
  PayloadState,
  payloadIndex,
} from '../../layouts/vhdx/index.ts';
import { readPadded } from '../../storage/storage.ts';
import { Block, type BlockTables, type BlockView } from '../block-table.ts';
import { Run, type RunSink } from '../runs.ts';
import { reportBitmap } from './bitmap.ts';
import type { VhdxHead } from './head.ts';

/** What is read of the BAT at once. */
const PAGE_ENTRIES = 8192;
const MAX_PAGES = 64;
/** Sector bitmap blocks, of a mebibyte each, kept in memory. */
const MAX_BITMAPS = 4;

const traceBitmap = tracePoint('vhdx_read_bitmap');

/** What decides whether a BAT entry can be right. */
export type EntryContext = Pick<VhdxHead, 'header' | 'regions' | 'parameters'>;

/** The payload entry at `at` of `bytes` as block tables have it (BlockView.entry). */
export function decodePayload(bytes: Buffer, at: number, context: EntryContext): number {
  switch (entryState(bytes, at)) {
    case PayloadState.notPresent:
      return Block.unallocated;
    // The latter two may be anything; zeros are what QEMU shows too. A parent is not asked.
    case PayloadState.zero:
    case PayloadState.undefined:
    case PayloadState.unmapped:
      return Block.zero;
    case PayloadState.fullyPresent:
      return checkedOffset(bytes, at, context.parameters.blockSize, context);
    case PayloadState.partiallyPresent:
      ensure(context.parameters.hasParent, 'A block is partially present, and the disk has no parent');
      checkedOffset(bytes, at, context.parameters.blockSize, context);
      return Block.mixed;
    default:
      throw new ImageError('corrupt', `A BAT entry has the unknown state ${entryState(bytes, at)}`);
  }
}

/** Where the entry says that its block lies: not where something else does. */
function checkedOffset(bytes: Buffer, at: number, length: number, { header, regions }: EntryContext): number {
  const offset = entryOffset(bytes, at);
  const end = offset + length;
  const outside = (other: { offset: number; length: number }) =>
    end <= other.offset || offset >= other.offset + other.length;
  ensure(
    offset >= HEADER_SECTION &&
      outside(regions.bat) &&
      outside(regions.metadata) &&
      outside({ offset: header.logOffset, length: header.logLength }),
    'A block overlaps the structures of the VHDX file',
    { offset },
  );
  return offset;
}

/** The BAT of a file that is only read, in pages, with the sector bitmaps of differencing disks. */
export class VhdxTables implements BlockTables {
  readonly #head: VhdxHead;
  readonly #pages = new LRUCache<number, Buffer>({ max: MAX_PAGES });
  readonly #bitmaps = new LRUCache<number, Buffer>({ max: MAX_BITMAPS });

  constructor(head: VhdxHead) {
    this.#head = head;
  }

  view(block: number, count: number): BlockView | Promise<BlockView> {
    const page = this.#pageOf(block);
    const known = this.#pages.get(page);
    if (known === undefined || this.#head.parameters.hasParent) return this.#load(block, count);
    return new BatView(this.#head, page, known, block, null);
  }

  #pageOf(block: number): number {
    return Math.floor(payloadIndex(block, this.#head.geometry.chunkRatio) / PAGE_ENTRIES);
  }

  async #load(block: number, count: number): Promise<BlockView> {
    const page = this.#pageOf(block);
    const bytes = await this.#page(page);
    const view = new BatView(this.#head, page, bytes, block, null);
    if (!this.#head.parameters.hasParent) return view;
    const { chunkRatio } = this.#head.geometry;
    const chunk = Math.floor(block / chunkRatio);
    // One bitmap in a view: it ends with its chunk.
    const stop = Math.min(block + count, view.first + view.count, (chunk + 1) * chunkRatio);
    let mixed = false;
    for (let each = block; each < stop && !mixed; each += 1) mixed = view.entry(each) === Block.mixed;
    return new BatView(this.#head, page, bytes, block, mixed ? await this.#bitmap(chunk) : null, stop);
  }

  async #page(page: number): Promise<Buffer> {
    const known = this.#pages.get(page);
    if (known !== undefined) return known;
    const { storage, regions, geometry } = this.#head;
    const first = page * PAGE_ENTRIES;
    const bytes = Buffer.alloc(Math.min(PAGE_ENTRIES, geometry.entries - first) * BAT_ENTRY_LENGTH);
    await readPadded(storage, regions.bat.offset + first * BAT_ENTRY_LENGTH, bytes);
    this.#pages.set(page, bytes);
    return bytes;
  }

  /** The sector bitmap of a chunk, in which some block is partially present. */
  async #bitmap(chunk: number): Promise<Buffer> {
    const index = bitmapIndex(chunk, this.#head.geometry.chunkRatio);
    const bytes = await this.#page(Math.floor(index / PAGE_ENTRIES));
    const at = (index % PAGE_ENTRIES) * BAT_ENTRY_LENGTH;
    ensure(
      entryState(bytes, at) === BitmapState.present,
      'A block is partially present, and there is no sector bitmap',
    );
    const offset = checkedOffset(bytes, at, BITMAP_LENGTH, this.#head);
    const known = this.#bitmaps.get(offset);
    if (known !== undefined) return known;
    const bitmap = Buffer.allocUnsafeSlow(BITMAP_LENGTH);
    await this.#head.storage.read(offset, bitmap);
    if (traceBitmap.enabled) traceBitmap.emit({ file: this.#head.storage.name, chunk, offset });
    this.#bitmaps.set(offset, bitmap);
    return bitmap;
  }
}

/** The payload blocks of one page from `first` on. */
class BatView implements BlockView {
  readonly first: number;
  readonly count: number;
  readonly #head: VhdxHead;
  readonly #bytes: Buffer;
  /** Index of the page's first entry. */
  readonly #from: number;
  readonly #bitmap: Buffer | null;

  constructor(head: VhdxHead, page: number, bytes: Buffer, first: number, bitmap: Buffer | null, stop?: number) {
    const { chunkRatio, blocks } = head.geometry;
    this.#head = head;
    this.#bytes = bytes;
    this.#from = page * PAGE_ENTRIES;
    this.#bitmap = bitmap;
    this.first = first;
    // The first payload block of the next page; an index that is a bitmap's belongs to the block before it.
    const index = this.#from + PAGE_ENTRIES;
    const next = index - Math.floor(index / (chunkRatio + 1));
    this.count = Math.min(stop ?? next, next, blocks) - first;
  }

  entry(block: number): number {
    return decodePayload(this.#bytes, this.#at(block), this.#head);
  }

  mixed(block: number, start: number, end: number, sink: RunSink): void {
    const { parameters, geometry } = this.#head;
    const { blockSize, logicalSectorSize } = parameters;
    const host = entryOffset(this.#bytes, this.#at(block));
    const bitmap = this.#bitmap;
    ensure(bitmap !== null, 'A block is partially present, and there is no sector bitmap');
    const base = block * blockSize;
    const firstBit = ((block % geometry.chunkRatio) * blockSize) / logicalSectorSize;
    reportBitmap({ bitmap, firstBit, sectorSize: logicalSectorSize, base, start, end }, (present, offset, length) => {
      if (present) sink.run(Run.data, offset, length, host + (offset - base));
      else sink.run(Run.unallocated, offset, length, -1);
    });
  }

  #at(block: number): number {
    return (payloadIndex(block, this.#head.geometry.chunkRatio) - this.#from) * BAT_ENTRY_LENGTH;
  }
}
