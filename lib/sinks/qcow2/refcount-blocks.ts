import {
  decodeRefcountTableEntry,
  encodeEntry,
  fillRefcounts,
  type Qcow2Geometry,
  readRefcount,
  sameRefcounts,
  writeRefcount,
} from '../../layouts/qcow2/index.ts';
import type { Storage } from '../../storage/storage.ts';
import { type Page, PageCache, type PageImage } from '../pages.ts';
import type { MetadataClusters } from './overlap.ts';

/** Refcount blocks kept in memory: with 64 KiB clusters these cover 128 GiB of the file. */
const BLOCK_CACHE_BYTES = 4 * 1024 * 1024;

export interface RefcountBlocksOptions {
  storage: Storage;
  /** Told of every block that is made. */
  occupied: MetadataClusters;
  geometry: Qcow2Geometry;
  table: Buffer;
  tableOffset: number;
  /** Writes back what is dirty: called when the cache needs room. */
  commit: () => Promise<void>;
}

/** The refcount table in memory, and the blocks that it names as far as they are in use. */
export class RefcountBlocks {
  readonly pages: PageCache;
  /** Reaches farther than the table on the disk only while it grows. */
  table: Buffer;
  tableOffset: number;
  tableClusters: number;
  /** The table lies elsewhere than the header says. */
  tableMoved = false;
  readonly #geometry: Qcow2Geometry;
  readonly #occupied: MetadataClusters;
  readonly #commit: () => Promise<void>;
  /** Entries [from, to) of the table that changed. */
  #dirtyFrom = Number.POSITIVE_INFINITY;
  #dirtyTo = 0;

  constructor({ storage, geometry, table, tableOffset, commit, occupied }: RefcountBlocksOptions) {
    this.pages = new PageCache({
      storage,
      pageSize: geometry.clusterSize,
      maxBytes: BLOCK_CACHE_BYTES,
      what: 'refcount block',
      format: 'qcow2',
    });
    this.table = table;
    this.tableOffset = tableOffset;
    this.tableClusters = table.length / geometry.clusterSize;
    this.#geometry = geometry;
    this.#commit = commit;
    this.#occupied = occupied;
  }

  /** Index of the block that counts `cluster`. */
  indexOf(cluster: number): number {
    return Math.floor(cluster / this.#geometry.refcountsPerBlock);
  }

  /** First cluster that the next block counts. */
  endOf(cluster: number): number {
    return (this.indexOf(cluster) + 1) * this.#geometry.refcountsPerBlock;
  }

  /** Whether the table has an entry for the block that counts `cluster`. */
  reaches(cluster: number): boolean {
    return this.indexOf(cluster) * 8 < this.table.length;
  }

  /** The block that counts `cluster`; null where there is none (all counts are zero). */
  async at(cluster: number): Promise<Page | null> {
    if (!this.reaches(cluster)) return null;
    const offset = decodeRefcountTableEntry(this.table, this.indexOf(cluster), this.#geometry.clusterSize);
    if (offset === 0) return null;
    const known = this.pages.peek(offset);
    if (known !== undefined) return known;
    await this.pages.makeRoom(this.#commit);
    return this.pages.load(offset);
  }

  /** Makes the block that counts `cluster`, all zeros, at host cluster `place`; that one is counted by the caller. */
  async make(cluster: number, place: number): Promise<Page> {
    await this.pages.makeRoom(this.#commit);
    return this.add(cluster, place);
  }

  /** `make` for a cache that has room. */
  add(cluster: number, place: number): Page {
    const { clusterSize } = this.#geometry;
    const page = this.pages.add(place * clusterSize, Buffer.alloc(clusterSize), true);
    const index = this.indexOf(cluster);
    this.#occupied.add(page.offset, clusterSize);
    encodeEntry(this.table, index * 8, page.offset);
    this.#dirtyFrom = Math.min(this.#dirtyFrom, index);
    this.#dirtyTo = Math.max(this.#dirtyTo, index + 1);
    return page;
  }

  /** Entries of the table. */
  get entries(): number {
    return this.table.length / 8;
  }

  /** Forgets the block that entry `index` of the table names. */
  drop(index: number): void {
    const { clusterSize } = this.#geometry;
    const offset = decodeRefcountTableEntry(this.table, index, clusterSize);
    encodeEntry(this.table, index * 8, 0);
    this.pages.drop(offset);
    this.#occupied.delete(offset, clusterSize);
    this.#dirtyFrom = Math.min(this.#dirtyFrom, index);
    this.#dirtyTo = Math.max(this.#dirtyTo, index + 1);
  }

  /** The refcount of `cluster` in its block. */
  count(page: Page, cluster: number): number {
    const { refcountsPerBlock, refcountBits } = this.#geometry;
    return readRefcount(page.bytes, cluster % refcountsPerBlock, refcountBits);
  }

  setCount(page: Page, cluster: number, count: number): void {
    const { refcountsPerBlock, refcountBits } = this.#geometry;
    writeRefcount(page.bytes, cluster % refcountsPerBlock, refcountBits, count);
    page.dirty = true;
  }

  /** How many clusters from `cluster` on, `most` at most and all in its block, have the same refcount. */
  sameCounts(page: Page, cluster: number, most: number): number {
    const { refcountsPerBlock, refcountBits } = this.#geometry;
    return sameRefcounts(page.bytes, cluster % refcountsPerBlock, most, refcountBits);
  }

  /** The end of the free clusters that begin at `cluster`, `end` at most; all in its block. */
  endOfFree(page: Page, cluster: number, end: number): number {
    if (cluster >= end || this.count(page, cluster) !== 0) return cluster;
    return cluster + this.sameCounts(page, cluster, end - cluster);
  }

  /** The first cluster from `cluster` on that is free, `end` at most; all in its block. */
  endOfUsed(page: Page, cluster: number, end: number): number {
    let at = cluster;
    while (at < end && this.count(page, at) !== 0) at += this.sameCounts(page, at, end - at);
    return at;
  }

  /** Sets the refcounts of so many clusters from `cluster` on, all in its block. */
  setCounts(page: Page, cluster: number, clusters: number, count: number): void {
    const { refcountsPerBlock, refcountBits } = this.#geometry;
    const index = cluster % refcountsPerBlock;
    fillRefcounts(page.bytes, { index, entries: clusters, bits: refcountBits, value: count });
    page.dirty = true;
  }

  /** Every block that the table names; `corrupt` for entries that can't be right. */
  *offsets(): Iterable<number> {
    for (let index = 0; index < this.entries; index += 1) {
      const offset = decodeRefcountTableEntry(this.table, index, this.#geometry.clusterSize);
      if (offset !== 0) yield offset;
    }
  }

  /** The table, longer by now, has got its new place. It stays where it was on the disk until the header is written. */
  moveTable(offset: number): void {
    this.#occupied.add(offset, this.table.length);
    this.tableOffset = offset;
    this.tableClusters = this.table.length / this.#geometry.clusterSize;
    this.tableMoved = true;
  }

  /** What of the table has to be written: all of it where it moved. Counts as written from now on. */
  takeDirtyTable(): PageImage | null {
    const limit = (this.tableClusters * this.#geometry.clusterSize) / 8;
    const from = this.tableMoved ? 0 : this.#dirtyFrom;
    const to = this.tableMoved ? limit : Math.min(this.#dirtyTo, limit);
    this.#dirtyFrom = Number.POSITIVE_INFINITY;
    this.#dirtyTo = 0;
    if (from >= to) return null;
    return { offset: this.tableOffset + from * 8, bytes: Buffer.from(this.table.subarray(from * 8, to * 8)) };
  }

  /** After a failed write: the table has to be written again. */
  markTableDirty(): void {
    this.#dirtyFrom = 0;
    this.#dirtyTo = this.table.length / 8;
  }
}
