import { Block, type BlockTables, type BlockView } from '../../sources/block-table.ts';
import { absentPages, PageView, pageBytes, type TableShape } from '../../sources/cached-tables.ts';
import type { Storage } from '../../storage/storage.ts';
import { Mutex } from '../locks.ts';
import { type Page, PageCache, writePages } from '../pages.ts';
import type { TablePage, TablePages } from './store.ts';

/** A table that can be changed. */
export interface WritableShape extends TableShape {
  /** Sets entry `index` of a page: a host offset, `Block.zero` or `Block.unallocated`. */
  encode(bytes: Buffer, index: number, state: number): void;
  /**
   * Finds host space for a page that is not there, and lets `pageOffset` know: the first table's entry, which is to be
   * written after the page. Absent where all pages are there from the start. Under the lock.
   */
  makePage?(page: number): Promise<number>;
}

export interface WritableTablesOptions {
  storage: Storage;
  format: string;
  shape: WritableShape;
  /** For messages: `L2 table`. */
  what: string;
  /** Writes everything back that is dirty (BlockStore.commit): the cache is full. */
  commit(): Promise<void>;
  /** Where further copies of the page at that offset lie (redundant grain tables). */
  mirrors?(offset: number): readonly number[];
}

const CACHE_BYTES = 4 * 1024 * 1024;

/**
 * Pages of a block table with the changes that the file doesn't have yet. It is also the table for reading: a
 * BlockSource on it sees each entry as soon as it is set.
 */
export class WritableTables implements BlockTables, TablePages {
  /** Held by whoever works on the tables; a store hands it on as its own. */
  readonly lock = new Mutex();
  readonly #options: WritableTablesOptions;
  readonly #shape: WritableShape;
  readonly #pages: PageCache;

  constructor(options: WritableTablesOptions) {
    this.#options = options;
    this.#shape = options.shape;
    this.#pages = new PageCache({
      storage: options.storage,
      pageSize: options.shape.pageEntries * options.shape.entrySize,
      maxBytes: CACHE_BYTES,
      what: options.what,
      format: options.format,
    });
  }

  view(block: number, count: number): BlockView | Promise<BlockView> {
    const page = Math.floor(block / this.#shape.pageEntries);
    const offset = this.#shape.pageOffset(page);
    if (offset < 0) return absentPages(this.#shape, page, block + count);
    const known = this.#pages.peek(offset);
    if (known !== undefined) return new PageView(this.#shape, page, known.bytes);
    return this.lock.run(async () => new PageView(this.#shape, page, (await this.#load(page, offset)).bytes));
  }

  /** The first block behind the page that holds `block`. */
  pageEnd(block: number): number {
    const { pageEntries, blocks } = this.#shape;
    return Math.min(blocks, (Math.floor(block / pageEntries) + 1) * pageEntries);
  }

  /** See TablePages.page. */
  async page(block: number): Promise<TablePage | null> {
    const index = Math.floor(block / this.#shape.pageEntries);
    const offset = this.#shape.pageOffset(index);
    return offset < 0 ? null : this.#pin(index, await this.#load(index, offset));
  }

  /** See TablePages.pageForWrite. */
  async pageForWrite(block: number): Promise<PinnedPage> {
    const { pageEntries, entrySize } = this.#shape;
    const index = Math.floor(block / pageEntries);
    const offset = this.#shape.pageOffset(index);
    if (offset >= 0) return this.#pin(index, await this.#load(index, offset));
    await this.#pages.makeRoom(() => this.#options.commit());
    const made = await this.#shape.makePage?.(index);
    if (made === undefined) throw new RangeError('a table page is missing, and the format says that none can be');
    const bytes = Buffer.alloc(pageBytes(this.#shape, index));
    for (let entry = 0; entry * entrySize < bytes.length; entry += 1)
      this.#shape.encode(bytes, entry, Block.unallocated);
    return this.#pin(index, this.#pages.add(made, bytes, true));
  }

  /** Whether `write` would write anything. */
  get dirty(): boolean {
    return this.#pages.dirty;
  }

  /**
   * Writes the changed pages, as they are at this moment. Under the lock.
   * @param barrier brings what the pages refer to to the disk. It runs after the moment: entries that are set while it
   * does may refer to bytes that it did not flush, and wait for the next time
   */
  async write(barrier?: () => Promise<void>): Promise<void> {
    const { storage, mirrors } = this.#options;
    const images = this.#pages.takeDirty();
    try {
      if (images.length > 0) await barrier?.();
      const copies =
        mirrors === undefined ? [] : images.flatMap(({ offset, bytes }) => copiesOf(mirrors(offset), bytes));
      await writePages(storage, [...images, ...copies]);
    } catch (error) {
      this.#pages.markDirty(images);
      throw error;
    }
  }

  async #load(index: number, offset: number): Promise<Page> {
    const known = this.#pages.peek(offset);
    if (known !== undefined) return known;
    await this.#pages.makeRoom(() => this.#options.commit());
    return this.#pages.load(offset, pageBytes(this.#shape, index));
  }

  #pin(index: number, page: Page): PinnedPage {
    page.pins += 1;
    return new PinnedPage(this.#shape, index * this.#shape.pageEntries, page);
  }
}

function copiesOf(offsets: readonly number[], bytes: Buffer) {
  return offsets.map((offset) => ({ offset, bytes }));
}

/** A page that stays in memory until it is released. */
export class PinnedPage implements TablePage {
  readonly page: Page;
  /** First block. */
  readonly first: number;
  readonly #shape: WritableShape;

  constructor(shape: WritableShape, first: number, page: Page) {
    this.#shape = shape;
    this.first = first;
    this.page = page;
  }

  entry(block: number): number {
    return this.#shape.decode(this.page.bytes, block - this.first, block);
  }

  set(block: number, state: number): void {
    this.#shape.encode(this.page.bytes, block - this.first, state);
    this.page.dirty = true;
  }

  release(): void {
    this.page.pins -= 1;
  }
}
