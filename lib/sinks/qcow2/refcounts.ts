import { alignUp } from '../../core/binary.ts';
import { ensure, ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import { MAX_REFCOUNT_TABLE_BYTES, maxRefcount, type Qcow2Geometry } from '../../layouts/qcow2/index.ts';
import type { Storage } from '../../storage/storage.ts';
import type { Page } from '../pages.ts';
import { RefcountBlocks, type RefcountBlocksOptions } from './refcount-blocks.ts';

const traceAllocate = tracePoint('qcow2_allocate');
const traceGrow = tracePoint('qcow2_refcount_table_grow');

/** Host clusters, one after the other. */
export interface ClusterRun {
  offset: number;
  clusters: number;
}

export interface AllocatedRun extends ClusterRun {
  /** Past everything that the file ever held: reads as zeros. */
  fresh: boolean;
}

/**
 * Refcounts and the search for free clusters ("Host cluster management"). Everything happens under
 * the image's metadata lock. Frees are not here at once: `release` only notes them, and `applyReleases`
 * makes clusters available when nothing on the disk refers to them any more.
 */
export class Refcounts {
  readonly blocks: RefcountBlocks;
  /** The largest refcount that an entry can hold. */
  readonly max: number;
  readonly #storage: Storage;
  readonly #geometry: Qcow2Geometry;
  /** All clusters before it are in use. */
  #cursor = 0;
  /** From here on the file has never been written. */
  #untouchedFrom: number;
  #releases: ClusterRun[] = [];

  constructor(options: RefcountBlocksOptions) {
    const { storage, geometry } = options;
    this.blocks = new RefcountBlocks(options);
    this.max = maxRefcount(geometry.refcountBits);
    // A device holds whatever was there before.
    this.#untouchedFrom = storage.fixedSize ? Number.POSITIVE_INFINITY : alignUp(storage.size, geometry.clusterSize);
    this.#storage = storage;
    this.#geometry = geometry;
  }

  /** A new image: its first `clusters` are in use, and the last of them is the first refcount block. */
  begin(clusters: number): void {
    const block = this.blocks.add(0, clusters - 1);
    for (let cluster = 0; cluster < clusters; cluster += 1) this.blocks.setCount(block, cluster, 1);
    this.#cursor = clusters;
    this.#touch({ offset: 0, clusters });
  }

  /** Has the search for free clusters begin at `cluster`. */
  searchFrom(cluster: number): void {
    this.#cursor = cluster;
  }

  /**
   * Takes up to `wanted` free clusters that lie together, at least one, the first that there are.
   * Their refcount is one. ImageError `no-space` where the format has no more.
   */
  async allocate(wanted: number): Promise<AllocatedRun> {
    for (;;) {
      const start = this.#cursor;
      const page = await this.#blockForWrite(start);
      const blockEnd = this.blocks.endOf(start);
      const first = this.blocks.endOfUsed(page, start, blockEnd);
      const end = this.blocks.endOfFree(page, first, Math.min(blockEnd, first + wanted));
      this.#cursor = end;
      if (end === first) continue;
      this.blocks.setCounts(page, first, end - first, 1);
      const run = { offset: first * this.#geometry.clusterSize, clusters: end - first };
      if (traceAllocate.enabled) traceAllocate.emit({ ...run });
      return { ...run, fresh: this.#touch(run) };
    }
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
    if (!this.blocks.reaches(first + count + extra - 1)) {
      await this.#grow(first + count + extra);
      first = await this.#findTogether(count + extra);
    }
    const made = await this.#coverWithBlocks(first, count);
    await this.#takeAll(first, count + made);
    this.#touch({ offset: first * clusterSize, clusters: count + made });
    return first * clusterSize;
  }

  /** The first cluster of so many free ones; the end of the file in the worst case. */
  async #findTogether(count: number): Promise<number> {
    let first = this.#cursor;
    for (let cluster = first; cluster < first + count; ) {
      const page = await this.blocks.at(cluster);
      const end = Math.min(first + count, this.blocks.endOf(cluster));
      if (page === null) {
        cluster = end;
        continue;
      }
      cluster = this.blocks.endOfFree(page, cluster, end);
      if (cluster === end) continue;
      cluster = this.blocks.endOfUsed(page, cluster, this.blocks.endOf(cluster));
      first = cluster;
    }
    return first;
  }

  /** Makes the blocks that are missing for `count` clusters and for themselves, right behind the clusters. */
  async #coverWithBlocks(first: number, count: number): Promise<number> {
    let made = 0;
    for (let cluster = first; cluster < first + count + made; cluster = this.blocks.endOf(cluster)) {
      if (!this.blocks.reaches(cluster)) throw this.#full();
      if ((await this.blocks.at(cluster)) !== null) continue;
      await this.blocks.make(cluster, first + count + made);
      made += 1;
    }
    return made;
  }

  /** Counts one reference to clusters that were free, and whose blocks are all there. */
  async #takeAll(first: number, count: number): Promise<void> {
    for (let cluster = first; cluster < first + count; ) {
      const page = await this.blocks.at(cluster);
      if (page === null) throw this.#full();
      const end = Math.min(first + count, this.blocks.endOf(cluster));
      this.blocks.setCounts(page, cluster, end - cluster, 1);
      cluster = end;
    }
  }

  /** The block for `cluster`; where there is none, it is made at `cluster`, free then, and counts itself. */
  async #blockForWrite(cluster: number): Promise<Page> {
    const there = await this.blocks.at(cluster);
    if (there !== null) return there;
    if (!this.blocks.reaches(cluster)) await this.#grow(cluster);
    // Growing allocates, and so may have made this very block.
    const made = await this.blocks.at(cluster);
    if (made !== null) return made;
    const page = await this.blocks.make(cluster, cluster);
    this.blocks.setCount(page, cluster, 1);
    this.#touch({ offset: page.offset, clusters: 1 });
    return page;
  }

  /** Makes the table reach `cluster`: a larger one elsewhere, with what is needed to count itself. */
  async #grow(cluster: number): Promise<void> {
    const { clusterSize, refcountsPerBlock: perBlock } = this.#geometry;
    const { table: before, tableOffset, tableClusters } = this.blocks;
    let clusters = Math.ceil(tableClusters * 1.5) + 1;
    while ((clusters * clusterSize) / 8 < Math.ceil((cluster + 4 * clusters + 64) / perBlock) + 2) clusters += 1;
    const bytes = Math.min(alignUp(MAX_REFCOUNT_TABLE_BYTES, clusterSize), clusters * clusterSize);
    if (this.blocks.indexOf(cluster) * 8 >= bytes) throw this.#full();
    this.blocks.table = Buffer.concat([before], bytes);
    try {
      const offset = await this.allocateTogether(bytes / clusterSize);
      if (traceGrow.enabled) traceGrow.emit({ clusters: bytes / clusterSize, offset });
      this.blocks.moveTable(offset);
    } catch (error) {
      // Nothing beyond the old table's reach may count as allocated, since no table says so.
      this.blocks.table = this.blocks.table.subarray(0, before.length);
      throw error;
    }
    this.release(tableOffset, tableClusters);
  }

  #full(): ImageError {
    return new ImageError('no-space', 'The refcount table can grow no further', {
      file: this.#storage.name,
      format: 'qcow2',
    });
  }

  /** The refcount of the cluster at `offset`. */
  async get(offset: number): Promise<number> {
    const cluster = Math.floor(offset / this.#geometry.clusterSize);
    const page = await this.blocks.at(cluster);
    return page === null ? 0 : this.blocks.count(page, cluster);
  }

  /** The end of the last host cluster in use: what lies behind it in the file is nothing's. */
  async usedEnd(): Promise<number> {
    const { clusterSize } = this.#geometry;
    let cluster = Math.ceil(this.#storage.size / clusterSize) - 1;
    while (cluster >= 0) {
      const page = await this.blocks.at(cluster);
      const first = this.blocks.indexOf(cluster) * this.#geometry.refcountsPerBlock;
      if (page !== null) while (cluster >= first && this.blocks.count(page, cluster) === 0) cluster -= 1;
      else cluster = first - 1;
      if (cluster >= first) break;
    }
    return (cluster + 1) * clusterSize;
  }

  /**
   * Gives up refcount blocks that count nothing but themselves. What they counted before must be free on the disk already; the
   * next commit makes the table forget them. Under the metadata lock.
   */
  async dropEmptyBlocks(): Promise<void> {
    const { clusterSize, refcountsPerBlock: perBlock } = this.#geometry;
    for (let index = 0; index < this.blocks.entries; index += 1) {
      const page = await this.blocks.at(index * perBlock);
      if (page === null) continue;
      const own = page.offset / clusterSize;
      if (this.blocks.indexOf(own) !== index || this.blocks.count(page, own) !== 1) continue;
      let used = 0;
      for (let at = 0; at < perBlock && used < 2; at += 1) if (this.blocks.count(page, at) !== 0) used += 1;
      if (used === 1) this.blocks.drop(index);
    }
  }

  /** Counts one more reference to each cluster; refuses to pass `max`. */
  async retain(offset: number, clusters: number): Promise<void> {
    await this.#add({ offset, clusters }, 1);
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
   * Takes the noted releases, so that those noted from now on wait for the next commit. Ascending, and those that lie together
   * joined: guests write here and there, and each run costs calls of the system.
   */
  takeReleases(): ClusterRun[] {
    const noted = this.#releases.sort((a, b) => a.offset - b.offset);
    this.#releases = [];
    for (const { offset, clusters } of noted) this.release(offset, clusters);
    const joined = this.#releases;
    this.#releases = [];
    return joined;
  }

  /** Carries releases out. Only after what no longer refers to the clusters is safely on the disk. */
  async applyReleases(releases: readonly ClusterRun[]): Promise<void> {
    for (const run of releases) await this.#add(run, -1);
  }

  /** Gives clusters back at once that nothing ever referred to. */
  async takeBack(run: ClusterRun): Promise<void> {
    await this.#add(run, -1);
  }

  async #add({ offset, clusters }: ClusterRun, change: 1 | -1): Promise<void> {
    const first = Math.floor(offset / this.#geometry.clusterSize);
    for (let cluster = first; cluster < first + clusters; ) {
      const page = await this.blocks.at(cluster);
      const end = Math.min(first + clusters, this.blocks.endOf(cluster));
      for (; cluster < end; cluster += 1) {
        const count = this.#changed(page, cluster, change);
        this.blocks.setCount(page as Page, cluster, count);
        if (count === 0 && cluster < this.#cursor) this.#cursor = cluster;
      }
    }
  }

  /** The count that the change gives; it must not begin at zero, and not pass `max`. */
  #changed(page: Page | null, cluster: number, change: 1 | -1): number {
    const context = { file: this.#storage.name, format: 'qcow2', offset: cluster * this.#geometry.clusterSize };
    const count = page === null ? 0 : this.blocks.count(page, cluster);
    ensure(count > 0, 'A cluster in use has no reference count', context);
    if (count + change > this.max) throw new ImageError('no-space', 'A reference count would overflow', context);
    return count + change;
  }
}
