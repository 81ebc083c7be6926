import { ensure } from '../../core/errors.ts';
import { ENTRY_BYTES, SECTOR } from '../../layouts/vmdk/index.ts';
import type { BlockTables, BlockView } from '../../sources/block-table.ts';
import { absentPages, PageView, readTablePage, type TableShape } from '../../sources/cached-tables.ts';
import type { GrainShape } from '../../sources/vmdk/grain-shape.ts';
import type { Storage } from '../../storage/storage.ts';

/** A grain table in memory. */
export interface StreamTable {
  readonly index: number;
  readonly bytes: Buffer;
  dirty: boolean;
}

/** Tables kept: two gigabytes of the disk. */
const MAX_TABLES = 64;
/** What stands for a place where a table has none yet. */
const IN_MEMORY = 0;

/** The grain tables of a stream-optimized extent that is being written: of those in memory not all have a place yet. */
export class StreamTables implements BlockTables {
  readonly shape: GrainShape;
  readonly #storage: Storage;
  readonly #tables = new Map<number, StreamTable>();
  /** The shape as readers are to see it: what is in memory only is there. */
  readonly #seen: TableShape;

  constructor(storage: Storage, shape: GrainShape) {
    this.#storage = storage;
    this.shape = shape;
    this.#seen = {
      blocks: shape.blocks,
      pageEntries: shape.pageEntries,
      entrySize: ENTRY_BYTES,
      pageOffset: (index) => (this.#tables.has(index) ? IN_MEMORY : shape.pageOffset(index)),
      decode: (bytes, index) => shape.decode(bytes, index),
      packed: (bytes, index) => shape.packed(bytes, index),
    };
  }

  view(block: number, count: number): BlockView | Promise<BlockView> {
    const index = this.tableOf(block);
    const known = this.#tables.get(index);
    if (known !== undefined) return new PageView(this.#seen, index, known.bytes);
    if (this.shape.pageOffset(index) < 0) return absentPages(this.#seen, index, block + count);
    return this.#load(index).then(({ bytes }) => new PageView(this.#seen, index, bytes));
  }

  tableOf(block: number): number {
    return Math.floor(block / this.shape.pageEntries);
  }

  /** Whether all of the blocks of `block`'s table are unallocated, for there is no table. */
  isAbsent(block: number): boolean {
    const index = this.tableOf(block);
    return !this.#tables.has(index) && this.shape.pageOffset(index) < 0;
  }

  /** The table that holds `block`; an empty one where there is none. */
  async table(block: number): Promise<StreamTable> {
    const index = this.tableOf(block);
    const known = this.#tables.get(index);
    if (known !== undefined) return known;
    if (this.shape.pageOffset(index) >= 0) return this.#load(index);
    return this.#keep({ index, bytes: Buffer.alloc(this.shape.pageEntries * ENTRY_BYTES), dirty: false });
  }

  /** The entry's sector number, raw. */
  get({ bytes }: StreamTable, block: number): number {
    return bytes.readUInt32LE((block % this.shape.pageEntries) * ENTRY_BYTES);
  }

  set(table: StreamTable, block: number, sector: number): void {
    table.bytes.writeUInt32LE(sector, (block % this.shape.pageEntries) * ENTRY_BYTES);
    table.dirty = true;
  }

  /** Tables that differ from what the file has, ascending. */
  dirty(): StreamTable[] {
    const found = [...this.#tables.values()].filter(({ dirty }) => dirty);
    return found.sort((a, b) => a.index - b.index);
  }

  /** No further table fits without one of the changed ones being written. */
  get full(): boolean {
    return this.dirty().length >= MAX_TABLES;
  }

  async #load(index: number): Promise<StreamTable> {
    const offset = this.shape.pageOffset(index);
    ensure(offset >= SECTOR, 'A grain table overlaps the header', { offset });
    const bytes = await readTablePage(this.#storage, offset, this.shape.pageEntries * ENTRY_BYTES);
    return this.#tables.get(index) ?? this.#keep({ index, bytes, dirty: false });
  }

  #keep(table: StreamTable): StreamTable {
    for (const [index, { dirty }] of this.#tables) {
      if (this.#tables.size < MAX_TABLES) break;
      if (!dirty) this.#tables.delete(index);
    }
    this.#tables.set(table.index, table);
    return table;
  }
}
