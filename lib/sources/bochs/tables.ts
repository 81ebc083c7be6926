import { LRUCache } from 'lru-cache';
import { ensure } from '../../core/errors.ts';
import { isZero } from '../../core/pool.ts';
import { tracePoint } from '../../core/trace.ts';
import { Window } from '../../core/window.ts';
import { type BochsHeader, bitmapBytes, extentOffset, NO_EXTENT, SECTOR } from '../../layouts/bochs.ts';
import type { Storage } from '../../storage/storage.ts';
import { Block, type BlockTables, type BlockView } from '../block-table.ts';
import { Run, RunBuilder, type RunSink } from '../runs.ts';

/** Extents whose bitmaps are fetched and kept together. */
const PAGE_EXTENTS = 128;
/** Bitmaps kept in memory: at most 2 KiB each. */
const CACHED_PAGES = 64;
/** Bitmaps that lie closer than this are read together, with the sectors between them: one call instead of many. */
const READ_GAP = 32 * 1024;
const MAX_READ = 1024 * 1024;
const PARALLEL = 8;
/** One view tells of no more extents that aren't there. */
const MAX_ABSENT = 64 * 1024;

const traceBitmaps = tracePoint('bochs_read_bitmaps');

/** An extent that is there: its index in the page, and where its bitmap lies. */
interface Place {
  index: number;
  host: number;
}

/** Catalog and bitmaps of a redolog as block tables: an extent is a block. */
export class BochsTables implements BlockTables {
  readonly #storage: Storage;
  readonly #header: BochsHeader;
  readonly #catalog: Buffer;
  readonly #pages = new LRUCache<number, BochsPage>({ max: CACHED_PAGES });

  /** @param catalog all of it; entries that are used are checked as they are looked at */
  constructor(storage: Storage, header: BochsHeader, catalog: Buffer) {
    this.#storage = storage;
    this.#header = header;
    this.#catalog = catalog;
  }

  view(block: number, count: number): BlockView | Promise<BlockView> {
    if (this.#number(block) === NO_EXTENT) return this.#absent(block, count);
    const page = Math.floor(block / PAGE_EXTENTS);
    return this.#pages.get(page) ?? this.#load(page);
  }

  #number(block: number): number {
    return this.#catalog.readUInt32LE(block * 4);
  }

  #absent(block: number, count: number): BlockView {
    const stop = block + Math.min(count, MAX_ABSENT);
    let next = block + 1;
    while (next < stop && this.#number(next) === NO_EXTENT) next += 1;
    return { first: block, count: next - block, uniform: Block.zero, entry: () => Block.zero };
  }

  async #load(number: number): Promise<BlockView> {
    const page = new BochsPage(this.#header, number * PAGE_EXTENTS);
    const places: Place[] = [];
    for (let index = 0; index < page.count; index += 1) {
      const extent = this.#number(page.first + index);
      if (extent === NO_EXTENT) continue;
      const host = extentOffset(this.#header, extent);
      const there = host + this.#header.bitmapSpace <= this.#storage.size;
      ensure(there, 'An extent lies past the end of the file', { offset: host });
      places.push({ index, host });
    }
    await this.#readBitmaps(page, places);
    this.#pages.set(number, page);
    return page;
  }

  async #readBitmaps(page: BochsPage, places: Place[]): Promise<void> {
    const window = new Window(PARALLEL);
    const length = bitmapBytes(this.#header.extentSize);
    places.sort((left, right) => left.host - right.host);
    try {
      for (const run of neighbours(places, length)) await window.enter(() => this.#readRun(page, run, length));
    } finally {
      await window.settle();
    }
    await window.drain();
    if (traceBitmaps.enabled) traceBitmaps.emit({ file: this.#storage.name, first: page.first, read: places.length });
  }

  async #readRun(page: BochsPage, run: readonly Place[], length: number): Promise<void> {
    const start = run[0].host;
    const bytes = Buffer.allocUnsafe(run[run.length - 1].host + length - start);
    await this.#storage.read(start, bytes);
    for (const { index, host } of run) page.set(index, host, bytes.subarray(host - start, host - start + length));
  }
}

/** Bitmaps to be read at once, ascending. */
function* neighbours(places: readonly Place[], length: number): Generator<Place[]> {
  let run: Place[] = [];
  for (const place of places) {
    const last = run[run.length - 1];
    const fits =
      last !== undefined && place.host - last.host <= READ_GAP && place.host + length - run[0].host <= MAX_READ;
    if (!fits && run.length > 0) {
      yield run;
      run = [];
    }
    run.push(place);
  }
  if (run.length > 0) yield run;
}

/** The extents from `first` on, with their bitmaps. */
class BochsPage implements BlockView {
  readonly first: number;
  readonly count: number;
  readonly #header: BochsHeader;
  readonly #entries: Float64Array;
  readonly #bitmaps: (Buffer | null)[];
  /** Where the extents' first sectors lie. */
  readonly #hosts: Float64Array;

  constructor(header: BochsHeader, first: number) {
    this.first = first;
    this.count = Math.min(PAGE_EXTENTS, header.catalogEntries - first);
    this.#header = header;
    this.#entries = new Float64Array(this.count).fill(Block.zero);
    this.#hosts = new Float64Array(this.count);
    this.#bitmaps = new Array(this.count).fill(null);
  }

  /** What an extent's bitmap says; a bit is set for a sector that was written. */
  set(index: number, host: number, bitmap: Buffer): void {
    if (isZero(bitmap)) return;
    this.#entries[index] = Block.mixed;
    this.#bitmaps[index] = Buffer.from(bitmap);
    this.#hosts[index] = host + this.#header.bitmapSpace;
  }

  entry(block: number): number {
    return this.#entries[block - this.first];
  }

  mixed(block: number, start: number, end: number, sink: RunSink): void {
    const bitmap = this.#bitmaps[block - this.first];
    if (bitmap === null) return;
    const base = block * this.#header.extentSize;
    const host = this.#hosts[block - this.first];
    const runs = new RunBuilder(sink, start, end);
    const stop = Math.ceil((end - base) / SECTOR);
    for (let sector = Math.floor((start - base) / SECTOR); sector < stop; sector += 1) {
      const written = (bitmap[sector >> 3] & (1 << (sector & 7))) !== 0;
      const at = sector * SECTOR;
      runs.add(written ? Run.data : Run.zero, base + at, SECTOR, written ? host + at : -1);
    }
    runs.finish();
  }
}
