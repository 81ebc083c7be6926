import { LRUCache } from 'lru-cache';
import { ImageError } from '../core/errors.ts';
import { tracePoint } from '../core/trace.ts';
import { readPadded, type Storage } from '../storage/storage.ts';
import { Block, type BlockTables, type BlockView } from './block-table.ts';

/**
 * How a format lays out its block table: in pages of so many entries, which are read and written as a whole. A table
 * that is one array is cut into pages of any size; where a first table names second ones (L1 and L2, grain
 * directory and grain tables), each of these is a page.
 */
export interface TableShape {
  /** Blocks that the table has entries for. */
  readonly blocks: number;
  /** Entries of a page. */
  readonly pageEntries: number;
  readonly entrySize: number;
  /** The table is one array with other things behind it: its last page is only as long as its entries. */
  readonly shortLastPage?: boolean;
  /** Host offset of a page; -1: there is none, its blocks are unallocated. `corrupt` where it can't be one. */
  pageOffset(page: number): number;
  /** What entry `index` of a page says of guest block `block`: see BlockView.entry. */
  decode(bytes: Buffer, index: number, block: number): number;
  /** See BlockView.packed. */
  packed?(bytes: Buffer, index: number, block: number): { host: number; packedLength: number };
}

/** Bytes of table kept in memory. */
const CACHE_BYTES = 4 * 1024 * 1024;
/** Absent pages that one view tells of. */
const MAX_ABSENT = 64 * 1024;

const traceRead = tracePoint('blocks_read_table');

/** Pages of a block table, read as they are needed; the most recently used ones stay. */
export class CachedTables implements BlockTables {
  readonly #storage: Storage;
  readonly #shape: TableShape;
  readonly #pages: LRUCache<number, Buffer>;

  constructor(storage: Storage, shape: TableShape) {
    this.#storage = storage;
    this.#shape = shape;
    const pageBytes = shape.pageEntries * shape.entrySize;
    this.#pages = new LRUCache({ max: Math.max(4, Math.min(4096, Math.floor(CACHE_BYTES / pageBytes))) });
  }

  view(block: number, count: number): BlockView | Promise<BlockView> {
    const page = Math.floor(block / this.#shape.pageEntries);
    const offset = this.#shape.pageOffset(page);
    if (offset < 0) return absentPages(this.#shape, page, block + count);
    const known = this.#pages.get(offset);
    if (known !== undefined) return new PageView(this.#shape, page, known);
    return this.#load(page, offset);
  }

  async #load(page: number, offset: number): Promise<BlockView> {
    const bytes = await readTablePage(this.#storage, offset, pageBytes(this.#shape, page));
    if (traceRead.enabled) traceRead.emit({ file: this.#storage.name, offset, bytes: bytes.length });
    this.#pages.set(offset, bytes);
    return new PageView(this.#shape, page, bytes);
  }
}

/** Bytes of a page. */
export function pageBytes({ blocks, pageEntries, entrySize, shortLastPage }: TableShape, page: number): number {
  const entries = shortLastPage === true ? Math.min(pageEntries, blocks - page * pageEntries) : pageEntries;
  return entries * entrySize;
}

/** The page at `offset`; the file may end within it, as after a table that is the last thing in it. */
export async function readTablePage(storage: Storage, offset: number, length: number): Promise<Buffer> {
  if (offset >= storage.size) {
    throw new ImageError('corrupt', 'A table lies past the end of the file', { file: storage.name, offset });
  }
  const bytes = Buffer.allocUnsafeSlow(length);
  await readPadded(storage, offset, bytes);
  return bytes;
}

/** One view for all absent pages from `page` on, up to the one before `end`. */
export function absentPages(shape: TableShape, page: number, end: number): BlockView {
  const stop = Math.min(Math.ceil(Math.min(end, shape.blocks) / shape.pageEntries), page + MAX_ABSENT);
  let next = page + 1;
  while (next < stop && shape.pageOffset(next) < 0) next += 1;
  const first = page * shape.pageEntries;
  return {
    first,
    count: (next - page) * shape.pageEntries,
    uniform: Block.unallocated,
    entry: () => Block.unallocated,
  };
}

/** The entries of one page. */
export class PageView implements BlockView {
  readonly first: number;
  readonly count: number;
  readonly #shape: TableShape;
  readonly #bytes: Buffer;

  constructor(shape: TableShape, page: number, bytes: Buffer) {
    this.#shape = shape;
    this.#bytes = bytes;
    this.first = page * shape.pageEntries;
    this.count = Math.min(shape.pageEntries, shape.blocks - this.first);
  }

  entry(block: number): number {
    return this.#shape.decode(this.#bytes, block - this.first, block);
  }

  packed(block: number): { host: number; packedLength: number } {
    const packed = this.#shape.packed?.(this.#bytes, block - this.first, block);
    if (packed === undefined) throw new ImageError('corrupt', 'A compressed block in a table that has none');
    return packed;
  }
}
