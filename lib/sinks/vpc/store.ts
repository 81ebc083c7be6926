import { ensure, ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import { encodeDynamicHeader, FOOTER_SIZE, MAX_SECTORS, SECTOR } from '../../layouts/vpc/index.ts';
import { BlockSource } from '../../sources/block-source.ts';
import type { DynamicHead } from '../../sources/vpc/head.ts';
import type { Storage } from '../../storage/storage.ts';
import type { Allocation, BlockStore } from '../blocks/store.ts';
import { WritableTables } from '../blocks/tables.ts';
import { WholeBitmaps } from './bitmaps.ts';
import { endOfTable, entriesFor, HEADER_OFFSET, newDynamicHead, TABLE_OFFSET } from './new-head.ts';
import { shapeOf, type VpcSettings } from './options.ts';
import { copyTable, fillTable, writableShape } from './table.ts';

/** Entries for the largest disk there is. */
const MAX_ENTRIES = entriesFor(MAX_SECTORS * SECTOR);

const traceAllocate = tracePoint('vpc_allocate');

export interface VpcStoreOptions {
  storage: Storage;
  head: DynamicHead;
  /** Where the next block goes. */
  end: number;
  /** For a new image; null: it exists. */
  settings: VpcSettings | null;
}

/**
 * The tables and the space of a dynamic disk. Blocks are appended where the footer was, and the footer goes behind
 * them; while none is there, the copy at the file's start stands in for it.
 */
export class VpcStore implements BlockStore {
  readonly format = 'vpc';
  readonly name: string;
  readonly storage: Storage;
  readonly data: Storage;
  readonly blockSize: number;
  readonly fresh: boolean;
  readonly backing = null;
  readonly hasBacking = false;
  readonly canZero = false;
  readonly source: BlockSource;
  readonly resize?: (size: number) => Promise<void>;
  readonly tables: WritableTables;
  readonly #bitmaps: WholeBitmaps;
  #head: DynamicHead;
  #end: number;
  /** A new image's: entries that fit between the table's start and the first block. */
  #room: number;

  constructor({ storage, head, end, settings }: VpcStoreOptions) {
    this.name = storage.name;
    this.storage = storage;
    this.data = storage;
    this.blockSize = head.dynamic.blockSize;
    this.fresh = settings !== null;
    this.#head = head;
    this.#end = end;
    this.#room = head.dynamic.tableEntries;
    this.#bitmaps = new WholeBitmaps(storage, head.bitmapBytes);
    const shape = writableShape(() => this.#head);
    const { format, blockSize } = this;
    this.tables = new WritableTables({
      storage,
      format,
      shape,
      what: 'block allocation table',
      commit: () => this.commit(),
    });
    this.source = new BlockSource({
      format,
      storage,
      size: () => this.size,
      blockSize,
      tables: this.tables,
      describe: () => ({ clusterSize: blockSize }),
      writable: true,
    });
    if (settings !== null) this.resize = (size) => this.#resize(size, settings);
  }

  get size(): number {
    return this.#head.size;
  }

  /** One block: a bitmap lies between it and the next. */
  async allocate(_blocks: number, first: number): Promise<Allocation> {
    const { storage } = this;
    const start = this.#end;
    const host = start + this.#head.bitmapBytes;
    const end = host + this.blockSize;
    if (end / SECTOR >= 0xffff_ffff || (storage.fixedSize && end + FOOTER_SIZE > storage.size)) {
      throw new ImageError('no-space', 'No space left for another block', { file: this.name, format: this.format });
    }
    const fresh = !storage.fixedSize && host >= storage.size;
    await this.#bitmaps.create(host);
    this.#end = end;
    if (traceAllocate.enabled) traceAllocate.emit({ file: this.name, block: first, host });
    return { host, blocks: 1, fresh };
  }

  takeBack({ host }: Allocation): void {
    if (host + this.blockSize === this.#end) this.#end = host - this.#head.bitmapBytes;
  }

  async touch(_first: number, _blocks: number, host: number): Promise<void> {
    await this.#bitmaps.complete(host);
  }

  async commit(): Promise<void> {
    if (this.fresh) return this.tables.write();
    await this.tables.write(async () => {
      await this.#writeFooter();
      await this.storage.flush();
    });
  }

  async complete(): Promise<void> {
    const { storage } = this;
    const head = this.#head;
    await this.#writeFooter();
    const end = this.#end + FOOTER_SIZE;
    // What is left of a write that failed: nothing refers to it, and the footer must come last.
    if (!storage.fixedSize && storage.size > end) await storage.truncate(end);
    if (this.fresh) await storage.write(HEADER_OFFSET, encodeDynamicHeader(head.dynamic));
    await storage.flush();
    if (!this.fresh) return;
    await storage.write(0, head.footerBytes);
    await storage.flush();
  }

  close(discard: boolean): Promise<void> {
    return this.storage.close({ discard });
  }

  async #writeFooter(): Promise<void> {
    await this.storage.write(this.#end, this.#head.footerBytes);
  }

  /** A new image only, which need not be in order until it is complete. */
  async #resize(size: number, settings: VpcSettings): Promise<void> {
    const shape = shapeOf(size, settings);
    const entries = entriesFor(shape.size);
    const before = this.#head.dynamic.tableEntries;
    await this.#forget(entries, before);
    if (entries > this.#room) await this.#makeRoom();
    const { tableOffset } = this.#head.dynamic;
    await fillTable(this.storage, tableOffset, before, entries);
    this.#head = newDynamicHead(shape, tableOffset, this.#room);
  }

  /** Blocks behind a new, smaller end. */
  async #forget(from: number, to: number): Promise<void> {
    for (let block = from; block < to; ) {
      const page = await this.tables.pageForWrite(block);
      try {
        for (const end = Math.min(to, this.tables.pageEnd(block)); block < end; block += 1) page.set(block, -1);
      } finally {
        page.release();
      }
    }
  }

  /**
   * Gives the table room for the largest disk: behind what there is, unless that is nothing. What it does not use
   * stays a hole.
   */
  async #makeRoom(): Promise<void> {
    const { storage } = this;
    await this.commit();
    const { tableOffset, tableEntries } = this.#head.dynamic;
    const isEmpty = this.#end === endOfTable(TABLE_OFFSET, this.#room);
    const next = isEmpty ? tableOffset : this.#end;
    if (next !== tableOffset) await copyTable(storage, tableOffset, next, tableEntries);
    this.#room = MAX_ENTRIES;
    this.#end = endOfTable(next, MAX_ENTRIES);
    this.#head = { ...this.#head, dynamic: { ...this.#head.dynamic, tableOffset: next } };
    ensure(storage.fixedSize === false || this.#end <= storage.size, 'The device is too small', { file: this.name });
  }
}
