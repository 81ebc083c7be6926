import { alignUp } from '../../core/binary.ts';
import { ensure, ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import {
  decodeRefcountTableEntry,
  encodeEntry,
  MAX_REFCOUNT_TABLE_BYTES,
  maxRefcount,
  type Qcow2Geometry,
  readRefcount,
  writeRefcount,
} from '../../layouts/qcow2/index.ts';
import type { Storage } from '../../storage/storage.ts';
import type { MetadataClusters } from './overlap.ts';
import { type Page, PageCache, type PageImage } from './pages.ts';

const traceAllocate = tracePoint('qcow2_allocate');
const traceGrow = tracePoint('qcow2_refcount_table_grow');

/** Refcount blocks kept in memory: with 64 KiB clusters these cover 128 GiB of the file. */
const BLOCK_CACHE_BYTES = 4 * 1024 * 1024;

/** Host clusters, one after the other. */
export interface ClusterRun {
  offset: number;
  clusters: number;
}

export interface AllocatedRun extends ClusterRun {
  /** Past everything that the file ever held: reads as zeros. */
  fresh: boolean;
}

export interface RefcountsOptions {
  storage: Storage;
  /** Told of every block and table that is made. */
  occupied: MetadataClusters;
  geometry: Qcow2Geometry;
  table: Buffer;
  tableOffset: number;
  /** Writes back what is dirty: called when the cache needs room. */
  commit: () => Promise<void>;
}

/**
 * Refcounts and the search for free clusters ("Host cluster management"). Everything happens under
 * the image's metadata lock. Frees are not here at once: `release` only notes them, and `applyReleases`
 * makes clusters available when nothing on the disk refers to them any more.
 */
export class Refcounts {
  readonly blocks: PageCache;
  /** The whole table; larger than `tableClusters` says only while it grows. */
  table: Buffer;
  tableOffset: number;
  tableClusters: number;
  /** The table lies elsewhere than the header says. */
  tableMoved = false;
  readonly #storage: Storage;
  readonly #geometry: Qcow2Geometry;
  readonly #max: number;
  readonly #occupied: MetadataClusters;
  readonly #commit: () => Promise<void>;
  /** All clusters before it are in use. */
  #cursor = 0;
  /** From here on the file has never been written. */
  #untouchedFrom: number;
  /** Entries [from, to) of the table that changed. */
  #dirtyFrom = Number.POSITIVE_INFINITY;
  #dirtyTo = 0;
  #releases: ClusterRun[] = [];

  constructor({ storage, geometry, table, tableOffset, commit, occupied }: RefcountsOptions) {
    this.blocks = new PageCache({
      storage,
      pageSize: geometry.clusterSize,
      maxBytes: BLOCK_CACHE_BYTES,
      what: 'refcount block',
    });
    this.table = table;
    this.tableOffset = tableOffset;
    this.tableClusters = table.length / geometry.clusterSize;
    // A device holds whatever was there before.
    this.#untouchedFrom = storage.fixedSize ? Number.POSITIVE_INFINITY : alignUp(storage.size, geometry.clusterSize);
    this.#storage = storage;
    this.#geometry = geometry;
    this.#max = maxRefcount(geometry.refcountBits);
    this.#commit = commit;
    this.#occupied = occupied;
  }

  /** The largest refcount that an entry can hold. */
  get max(): number {
    return this.#max;
  }

  get hasReleases(): boolean {
    return this.#releases.length > 0;
  }

  /**
   * Takes up to `wanted` free clusters that lie together, at least one, the first that there are.
   * Their refcount is one. ImageError `no-space` where the format has no more.
   */
  async allocate(wanted: number): Promise<AllocatedRun> {
    const { refcountsPerBlock: perBlock, refcountBits: bits, clusterSize } = this.#geometry;
    for (;;) {
      const cluster = this.#cursor;
      const page = await this.#blockForWrite(cluster);
      const base = Math.floor(cluster / perBlock) * perBlock;
      let first = cluster - base;
      while (first < perBlock && readRefcount(page.bytes, first, bits) !== 0) first += 1;
      let end = first;
      const stop = Math.min(perBlock, first + wanted);
      while (end < stop && readRefcount(page.bytes, end, bits) === 0) {
        writeRefcount(page.bytes, end, bits, 1);
        end += 1;
      }
      this.#cursor = base + end;
      if (end === first) continue;
      page.dirty = true;
      const run = { offset: (base + first) * clusterSize, clusters: end - first };
      if (traceAllocate.enabled) traceAllocate.emit({ ...run });
      return { ...run, fresh: this.#touch(run) };
    }
  }

  /** A new image: its first `clusters` are in use, and one of them is the first refcount block. */
  begin({ blockOffset, clusters }: { blockOffset: number; clusters: number }): void {
    const { clusterSize, refcountBits } = this.#geometry;
    const block = this.blocks.add(blockOffset, Buffer.alloc(clusterSize), true);
    for (let cluster = 0; cluster < clusters; cluster += 1) writeRefcount(block.bytes, cluster, refcountBits, 1);
    this.#setTableEntry(0, blockOffset);
    this.#cursor = clusters;
    if (!this.#storage.fixedSize) this.#untouchedFrom = Math.max(this.#untouchedFrom, clusters * clusterSize);
  }

  #touch(run: ClusterRun): boolean {
    const fresh = run.offset >= this.#untouchedFrom;
    const end = run.offset + run.clusters * this.#geometry.clusterSize;
    if (end > this.#untouchedFrom) this.#untouchedFrom = end;
    return fresh;
  }

  /** Takes exactly `count` clusters that lie together: for tables. The blocks that count them lie behind them. */
  async allocateTogether(count: number): Promise<number> {
    const { clusterSize, refcountsPerBlock: perBlock } = this.#geometry;
    let extra = 1;
    while (extra < Math.ceil((count + extra) / perBlock) + 1) extra += 1;
    let first = await this.#findTogether(count + extra);
    const lastIndex = Math.floor((first + count + extra - 1) / perBlock);
    if (lastIndex * 8 >= this.table.length) {
      await this.#grow(first + count + extra);
      first = await this.#findTogether(count + extra);
    }
    const made = await this.#coverWithBlocks(first, count);
    await this.#set(first, count + made, 1);
    this.#touch({ offset: first * clusterSize, clusters: count + made });
    return first * clusterSize;
  }

  /** The first cluster of so many free ones; the end of the file in the worst case. */
  async #findTogether(count: number): Promise<number> {
    const { refcountsPerBlock: perBlock, refcountBits: bits } = this.#geometry;
    let first = this.#cursor;
    for (let cluster = first; cluster < first + count; ) {
      const page = await this.#block(cluster);
      const end = Math.min(first + count, (Math.floor(cluster / perBlock) + 1) * perBlock);
      if (page === null) {
        cluster = end;
        continue;
      }
      while (cluster < end && readRefcount(page.bytes, cluster % perBlock, bits) === 0) cluster += 1;
      if (cluster === end) continue;
      cluster += 1;
      first = cluster;
    }
    return first;
  }

  /** Makes the blocks that are missing for `count` clusters and for themselves, right behind the clusters. */
  async #coverWithBlocks(first: number, count: number): Promise<number> {
    const { refcountsPerBlock: perBlock } = this.#geometry;
    let made = 0;
    for (let cluster = first; cluster < first + count + made; ) {
      const index = Math.floor(cluster / perBlock);
      if (index * 8 >= this.table.length) throw this.#full();
      if ((await this.#block(cluster)) === null) {
        await this.#makeBlock(index, first + count + made);
        made += 1;
      }
      cluster = (index + 1) * perBlock;
    }
    return made;
  }

  /** Sets the refcounts of clusters whose blocks are all there. */
  async #set(first: number, count: number, value: number): Promise<void> {
    const { refcountsPerBlock: perBlock, refcountBits: bits } = this.#geometry;
    for (let cluster = first; cluster < first + count; ) {
      const page = await this.#block(cluster);
      if (page === null) throw this.#full();
      const end = Math.min(first + count, (Math.floor(cluster / perBlock) + 1) * perBlock);
      for (; cluster < end; cluster += 1) writeRefcount(page.bytes, cluster % perBlock, bits, value);
      page.dirty = true;
    }
  }

  async #makeBlock(index: number, cluster: number) {
    const { clusterSize } = this.#geometry;
    await this.blocks.makeRoom(this.#commit);
    const page = this.blocks.add(cluster * clusterSize, Buffer.alloc(clusterSize), true);
    this.#occupied.add(page.offset, clusterSize);
    this.#setTableEntry(index, page.offset);
    return page;
  }

  #full(): ImageError {
    return new ImageError('no-space', 'The refcount table can grow no further', {
      file: this.#storage.name,
      format: 'qcow2',
    });
  }

  /** Counts one more reference to each cluster; refuses to pass `max`. */
  async retain(offset: number, clusters: number): Promise<void> {
    await this.#add(offset, clusters, 1);
  }

  /** The refcount of the cluster at `offset`. */
  async get(offset: number): Promise<number> {
    const cluster = Math.floor(offset / this.#geometry.clusterSize);
    const page = await this.#block(cluster);
    if (page === null) return 0;
    return readRefcount(page.bytes, cluster % this.#geometry.refcountsPerBlock, this.#geometry.refcountBits);
  }

  /** One reference less to each cluster, from the next `applyReleases` on. */
  release(offset: number, clusters: number): void {
    const last = this.#releases.length > 0 ? this.#releases[this.#releases.length - 1] : undefined;
    if (last !== undefined && last.offset + last.clusters * this.#geometry.clusterSize === offset) {
      last.clusters += clusters;
    } else {
      this.#releases.push({ offset, clusters });
    }
  }

  /**
   * Sets every refcount to what `countOf` says, making blocks that are missing behind the end of the file.
   * @param clusters of the file; all further ones are free
   * @returns how many were wrong
   */
  async correct(clusters: number, countOf: (cluster: number) => number): Promise<number> {
    const { refcountsPerBlock: perBlock } = this.#geometry;
    const missing: number[] = [];
    let changed = 0;
    const indexes = Math.max(Math.ceil(clusters / perBlock), this.table.length / 8);
    for (let index = 0; index < indexes; index += 1) {
      const page = await this.#block(index * perBlock);
      if (page !== null) changed += this.#correctBlock(page, index, countOf);
      else if (this.#isCounted(index, clusters, countOf)) missing.push(index);
    }
    // Only there can nothing be in use that the refcounts don't know of yet.
    this.#cursor = clusters;
    for (const index of missing) {
      changed += 1;
      if (index * 8 >= this.table.length) await this.#grow(clusters);
      const page = (await this.#block(index * perBlock)) ?? (await this.#makeBlock(index, await this.#allocateOne()));
      for (let at = index * perBlock; at < Math.min(clusters, (index + 1) * perBlock); at += 1) {
        this.#correctEntry(page, at, countOf(at));
      }
    }
    this.#cursor = 0;
    return changed;
  }

  async #allocateOne(): Promise<number> {
    return (await this.allocate(1)).offset / this.#geometry.clusterSize;
  }

  #isCounted(index: number, clusters: number, countOf: (cluster: number) => number): boolean {
    const { refcountsPerBlock: perBlock } = this.#geometry;
    const end = Math.min(clusters, (index + 1) * perBlock);
    for (let cluster = index * perBlock; cluster < end; cluster += 1) if (countOf(cluster) > 0) return true;
    return false;
  }

  #correctBlock(page: Page, index: number, countOf: (cluster: number) => number): number {
    const { refcountsPerBlock: perBlock } = this.#geometry;
    let changed = 0;
    for (let at = index * perBlock; at < (index + 1) * perBlock; at += 1) {
      if (this.#correctEntry(page, at, countOf(at))) changed += 1;
    }
    return changed;
  }

  #correctEntry(page: Page, cluster: number, count: number): boolean {
    const { refcountsPerBlock: perBlock, refcountBits: bits } = this.#geometry;
    if (readRefcount(page.bytes, cluster % perBlock, bits) === count) return false;
    ensure(count <= this.#max, 'A cluster has more references than its reference count can hold', {
      file: this.#storage.name,
      format: 'qcow2',
      offset: cluster * this.#geometry.clusterSize,
    });
    writeRefcount(page.bytes, cluster % perBlock, bits, count);
    page.dirty = true;
    return true;
  }

  /** Every block that the table names; `corrupt` for entries that can't be right. */
  *blockOffsets(): Iterable<number> {
    for (let index = 0; index < this.table.length / 8; index += 1) {
      const offset = decodeRefcountTableEntry(this.table, index, this.#geometry.clusterSize);
      if (offset !== 0) yield offset;
    }
  }

  /** Takes the noted releases, so that those noted from now on wait for the next commit. */
  takeReleases(): ClusterRun[] {
    const releases = this.#releases;
    this.#releases = [];
    return releases;
  }

  /** Carries releases out. Only after what no longer refers to the clusters is safely on the disk. */
  async applyReleases(releases: readonly ClusterRun[]): Promise<void> {
    for (const { offset, clusters } of releases) await this.#add(offset, clusters, -1);
  }

  /** Gives clusters back at once that nothing ever referred to. */
  async takeBack(run: ClusterRun): Promise<void> {
    await this.#add(run.offset, run.clusters, -1);
  }

  async #add(offset: number, clusters: number, change: number): Promise<void> {
    const { clusterSize, refcountsPerBlock: perBlock, refcountBits: bits } = this.#geometry;
    const first = Math.floor(offset / clusterSize);
    for (let cluster = first; cluster < first + clusters; ) {
      const page = await this.#block(cluster);
      const end = Math.min(first + clusters, (Math.floor(cluster / perBlock) + 1) * perBlock);
      for (; cluster < end; cluster += 1) {
        const count = page === null ? 0 : readRefcount(page.bytes, cluster % perBlock, bits);
        this.#checkCount(count, change, cluster);
        writeRefcount((page as { bytes: Buffer }).bytes, cluster % perBlock, bits, count + change);
        if (count + change === 0 && cluster < this.#cursor) this.#cursor = cluster;
      }
      if (page !== null) page.dirty = true;
    }
  }

  #checkCount(count: number, change: number, cluster: number): void {
    const context = { file: this.#storage.name, format: 'qcow2', offset: cluster * this.#geometry.clusterSize };
    ensure(count > 0, 'A cluster in use has no reference count', context);
    if (count + change > this.#max) throw new ImageError('no-space', 'A reference count would overflow', context);
  }

  /** The block that counts `cluster`; null where there is none (all counts are zero). */
  async #block(cluster: number) {
    const index = Math.floor(cluster / this.#geometry.refcountsPerBlock);
    if (index * 8 >= this.table.length) return null;
    const offset = decodeRefcountTableEntry(this.table, index, this.#geometry.clusterSize);
    if (offset === 0) return null;
    const known = this.blocks.peek(offset);
    if (known !== undefined) return known;
    await this.blocks.makeRoom(this.#commit);
    return this.blocks.load(offset);
  }

  /** Like `#block`, but makes a block that is not there: it lies at `cluster`, free then, and counts itself. */
  async #blockForWrite(cluster: number) {
    const { refcountsPerBlock: perBlock, refcountBits } = this.#geometry;
    const there = await this.#block(cluster);
    if (there !== null) return there;
    const index = Math.floor(cluster / perBlock);
    if (index * 8 >= this.table.length) await this.#grow(cluster);
    // Growing allocates, and so may have made this very block.
    const made = await this.#block(cluster);
    if (made !== null) return made;
    const page = await this.#makeBlock(index, cluster);
    writeRefcount(page.bytes, cluster % perBlock, refcountBits, 1);
    this.#touch({ offset: page.offset, clusters: 1 });
    return page;
  }

  #setTableEntry(index: number, offset: number): void {
    encodeEntry(this.table, index * 8, offset);
    this.#dirtyFrom = Math.min(this.#dirtyFrom, index);
    this.#dirtyTo = Math.max(this.#dirtyTo, index + 1);
  }

  /** A larger table elsewhere. The old one stays in force on the disk until the header is written. */
  async #grow(cluster: number): Promise<void> {
    const { clusterSize, refcountsPerBlock: perBlock } = this.#geometry;
    const old = { offset: this.tableOffset, clusters: this.tableClusters };
    let clusters = Math.ceil(this.tableClusters * 1.5) + 1;
    // The table must also reach the blocks that count its own clusters.
    while ((clusters * clusterSize) / 8 < Math.ceil((cluster + 4 * clusters + 64) / perBlock) + 2) clusters += 1;
    const bytes = Math.min(alignUp(MAX_REFCOUNT_TABLE_BYTES, clusterSize), clusters * clusterSize);
    if (Math.floor(cluster / perBlock) * 8 >= bytes) throw this.#full();
    const table = Buffer.alloc(bytes);
    this.table.copy(table);
    this.table = table;
    const offset = await this.allocateTogether(bytes / clusterSize);
    if (traceGrow.enabled) traceGrow.emit({ clusters: bytes / clusterSize, offset });
    this.#occupied.add(offset, bytes);
    this.tableOffset = offset;
    this.tableClusters = bytes / clusterSize;
    this.tableMoved = true;
    this.release(old.offset, old.clusters);
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
