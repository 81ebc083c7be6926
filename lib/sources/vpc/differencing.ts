import { LRUCache } from 'lru-cache';
import { isSet, runEnd, SECTOR, uniformBitmap } from '../../layouts/vpc/index.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';
import { Block, type BlockTables, type BlockView } from '../block-table.ts';
import { CachedTables } from '../cached-tables.ts';
import { Run, type RunSink } from '../runs.ts';
import type { DynamicHead } from './head.ts';
import { tableShape } from './tables.ts';

/** Sector bitmaps kept in memory, and read for one view. */
const CACHE_BYTES = 4 * 1024 * 1024;
const VIEW_BYTES = 256 * 1024;

/** The tables of a differencing disk: a bit for each sector tells whether it is here or in the parent. */
export class DifferencingTables implements BlockTables {
  readonly #storage: Storage;
  readonly #head: DynamicHead;
  readonly #table: CachedTables;
  /** By host offset of the block's data. */
  readonly #bitmaps: LRUCache<number, Buffer>;

  constructor(storage: Storage, head: DynamicHead) {
    this.#storage = storage;
    this.#head = head;
    this.#table = new CachedTables(storage, tableShape(head));
    this.#bitmaps = new LRUCache({ max: Math.max(4, Math.floor(CACHE_BYTES / head.bitmapBytes)) });
  }

  async view(block: number, count: number): Promise<BlockView> {
    const base = await this.#table.view(block, count);
    const most = Math.max(1, Math.floor(VIEW_BYTES / this.#head.bitmapBytes));
    const blocks = Math.min(count, most, base.first + base.count - block);
    const hosts = Array.from({ length: blocks }, (_, index) => base.entry(block + index));
    const bitmaps = await Promise.all(hosts.map((host) => (host < 0 ? null : this.#bitmap(host))));
    return new DifferencingView(block, hosts, bitmaps, this.#head.dynamic.blockSize);
  }

  async #bitmap(host: number): Promise<Buffer> {
    const known = this.#bitmaps.get(host);
    if (known !== undefined) return known;
    const { bitmapBytes } = this.#head;
    const bitmap = Buffer.allocUnsafeSlow(bitmapBytes);
    await readPadded(this.#storage, host - bitmapBytes, bitmap);
    this.#bitmaps.set(host, bitmap);
    return bitmap;
  }
}

class DifferencingView implements BlockView {
  readonly first: number;
  readonly #hosts: readonly number[];
  readonly #bitmaps: readonly (Buffer | null)[];
  readonly #blockSize: number;

  constructor(first: number, hosts: readonly number[], bitmaps: readonly (Buffer | null)[], blockSize: number) {
    this.first = first;
    this.#hosts = hosts;
    this.#bitmaps = bitmaps;
    this.#blockSize = blockSize;
  }

  get count(): number {
    return this.#hosts.length;
  }

  entry(block: number): number {
    const bitmap = this.#bitmaps[block - this.first];
    if (bitmap === null) return Block.unallocated;
    const whole = uniformBitmap(bitmap, this.#blockSize / SECTOR);
    if (whole === null) return Block.mixed;
    return whole ? this.#hosts[block - this.first] : Block.unallocated;
  }

  mixed(block: number, start: number, end: number, sink: RunSink): void {
    const bitmap = this.#bitmaps[block - this.first] as Buffer;
    const host = this.#hosts[block - this.first];
    const base = block * this.#blockSize;
    const last = Math.ceil((end - base) / SECTOR);
    for (let at = start; at < end; ) {
      const sector = Math.floor((at - base) / SECTOR);
      const stop = Math.min(end, base + runEnd(bitmap, sector, last) * SECTOR);
      if (isSet(bitmap, sector)) sink.run(Run.data, at, stop - at, host + (at - base));
      else sink.run(Run.unallocated, at, stop - at, -1);
      at = stop;
    }
  }
}
