import { ensure, ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import {
  Autoclear,
  decodeL1Entry,
  encodeEntry,
  encodeHead,
  type HeaderTail,
  type Qcow2Geometry,
  type Qcow2Header,
} from '../../layouts/qcow2/index.ts';
import type { Source } from '../../sources/source.ts';
import type { Storage } from '../../storage/storage.ts';
import { Mutex } from '../locks.ts';
import { type Page, PageCache, type PageImage, writePages } from '../pages.ts';
import { Qcow2Bitmaps } from './bitmaps/index.ts';
import { MetadataClusters } from './overlap.ts';
import { type ClusterRun, Refcounts } from './refcounts.ts';

const traceCommit = tracePoint('qcow2_commit');

/** L2 tables kept in memory: with 64 KiB clusters these cover 64 GiB of the disk. */
const L2_CACHE_BYTES = 8 * 1024 * 1024;

export interface Qcow2ImageOptions {
  storage: Storage;
  /** Where guest data lie: the external data file, or `storage`. */
  data: Storage;
  header: Qcow2Header;
  tail: HeaderTail;
  geometry: Qcow2Geometry;
  /** The active L1 table, as long as the header says. */
  l1: Buffer;
  refcountTable: Buffer;
  /** What the top layer leaves unallocated reads from here. */
  backing: Source | null;
  /** Nothing recognisable is in the file before `close`: no order has to be kept until then. */
  fresh: boolean;
}

/**
 * An image open for writing: its metadata in memory, and the one way in which they reach the disk.
 * The parts of the write path (write, zero, compressed) share it.
 */
export class Qcow2Image {
  readonly storage: Storage;
  readonly data: Storage;
  readonly header: Qcow2Header;
  readonly tail: HeaderTail;
  readonly geometry: Qcow2Geometry;
  readonly backing: Source | null;
  readonly fresh: boolean;
  readonly refcounts: Refcounts;
  readonly tables: PageCache;
  /** Dirty bitmaps, which record what is written. */
  readonly bitmaps: Qcow2Bitmaps;
  /** Where metadata lie, in an image that was not made here. */
  readonly occupied: MetadataClusters;
  /** Host offset at which the next compressed cluster may begin, inside a cluster begun before; 0: none. */
  packAt = 0;
  /** Held by whoever allocates, loads tables or commits. */
  readonly metadata = new Mutex();
  l1: Buffer;
  /** Entries [from, to) of the L1 table that changed. */
  #l1From = Number.POSITIVE_INFINITY;
  #l1To = 0;
  #headerDirty = false;
  #prepared = false;

  constructor(options: Qcow2ImageOptions) {
    this.storage = options.storage;
    this.data = options.data;
    this.header = options.header;
    this.tail = options.tail;
    this.geometry = options.geometry;
    this.backing = options.backing;
    this.fresh = options.fresh;
    this.l1 = options.l1;
    this.occupied = new MetadataClusters(options.geometry.clusterSize, !options.fresh);
    this.refcounts = new Refcounts({
      storage: options.storage,
      occupied: this.occupied,
      geometry: options.geometry,
      table: options.refcountTable,
      tableOffset: options.header.refcountTableOffset,
      commit: () => this.commit(),
    });
    this.tables = new PageCache({
      storage: options.storage,
      pageSize: options.geometry.clusterSize,
      maxBytes: L2_CACHE_BYTES,
      what: 'L2 table',
      format: 'qcow2',
    });
    this.bitmaps = new Qcow2Bitmaps(this);
    if (!options.fresh) this.#findMetadata();
  }

  #findMetadata(): void {
    const { clusterSize } = this.geometry;
    this.occupied.add(0, clusterSize);
    this.occupied.add(this.header.l1Offset, this.l1.length);
    this.occupied.add(this.header.refcountTableOffset, this.refcounts.blocks.table.length);
    for (const offset of this.refcounts.blocks.offsets()) this.occupied.add(offset, clusterSize);
    for (let at = 0; at < this.l1.length; at += 8) {
      const { offset } = decodeL1Entry(this.l1, at, clusterSize);
      if (offset !== 0) this.occupied.add(offset, clusterSize);
    }
  }

  /** Data clusters are in a file of their own, where host and guest offsets are the same. */
  get external(): boolean {
    return this.data !== this.storage;
  }

  /** The L2 table for reading, pinned; null where the L1 entry has none. Under the metadata lock. */
  async table(l1Index: number): Promise<Page | null> {
    const { offset } = decodeL1Entry(this.l1, l1Index * 8, this.geometry.clusterSize);
    if (offset === 0) return null;
    const page = await this.#loadTable(offset);
    page.pins += 1;
    return page;
  }

  /** The L2 table for writing, pinned: made where there is none, copied where a snapshot shares it. */
  async tableForWrite(l1Index: number): Promise<Page> {
    const { clusterSize } = this.geometry;
    const { offset, copied } = decodeL1Entry(this.l1, l1Index * 8, clusterSize);
    if (offset !== 0 && copied) {
      const page = await this.#loadTable(offset);
      page.pins += 1;
      return page;
    }
    const bytes = offset === 0 ? Buffer.alloc(clusterSize) : Buffer.from((await this.#loadTable(offset)).bytes);
    await this.tables.makeRoom(() => this.commit());
    const run = await this.refcounts.allocate(1);
    const page = this.tables.add(run.offset, bytes, true);
    page.pins += 1;
    this.occupied.add(run.offset, clusterSize);
    encodeEntry(this.l1, l1Index * 8, run.offset, { copied: true });
    this.markL1(l1Index);
    // Shared with a snapshot, it stays metadata: the cluster goes on being looked up.
    if (offset !== 0) this.refcounts.release(offset, 1);
    return page;
  }

  /** The tables at these host offsets, for reading. Under the metadata lock. */
  async loadTables(offsets: readonly number[]): Promise<Buffer[]> {
    const tables: Buffer[] = [];
    for (const offset of offsets) tables.push((await this.#loadTable(offset)).bytes);
    return tables;
  }

  async #loadTable(offset: number): Promise<Page> {
    const known = this.tables.peek(offset);
    if (known !== undefined) return known;
    await this.tables.makeRoom(() => this.commit());
    return this.tables.load(offset);
  }

  /** Whether the host cluster at `offset` holds metadata, and so can't hold data. */
  isMetadata(offset: number): boolean {
    return this.occupied.has(offset);
  }

  /** Refuses clusters that the refcounts call free although they are not. */
  checkAllocated(run: ClusterRun): void {
    for (let index = 0; index < run.clusters; index += 1) {
      const offset = run.offset + index * this.geometry.clusterSize;
      if (!this.isMetadata(offset)) continue;
      throw new ImageError('corrupt', 'The refcounts call a cluster of metadata free; run a check first', {
        file: this.storage.name,
        format: 'qcow2',
        offset,
      });
    }
  }

  /** Takes a longer L1 table that has been written at `offset`. */
  replaceL1(l1: Buffer, offset: number): void {
    this.l1 = l1;
    this.header.l1Entries = l1.length / 8;
    this.header.l1Offset = offset;
    this.occupied.add(offset, l1.length);
  }

  get needsPreparation(): boolean {
    return !this.fresh && !this.#prepared;
  }

  /**
   * Once, before the first change of an image that exists: features that a writer has to keep up to date
   * are cleared where this one does not ("autoclear_features"), and bitmaps begin to record.
   */
  async prepareChange(): Promise<void> {
    await this.metadata.run(async () => {
      if (this.#prepared) return;
      const known = Autoclear.bitmaps | (this.external ? Autoclear.rawDataFile : 0n);
      let kept = this.header.autoclear & known;
      if ((kept & Autoclear.bitmaps) !== 0n) {
        if (!(await this.bitmaps.startRecording())) kept &= ~Autoclear.bitmaps;
        await this.#barrier(this.storage);
      }
      if (kept !== this.header.autoclear) {
        this.header.autoclear = kept;
        await this.writeHeader();
        await this.#barrier(this.storage);
      }
      this.#prepared = true;
    });
  }

  /** Sets or clears the copied flag of an L1 entry. */
  setTableCopied(l1Index: number, copied: boolean): void {
    const { offset } = decodeL1Entry(this.l1, l1Index * 8, this.geometry.clusterSize);
    encodeEntry(this.l1, l1Index * 8, offset, { copied });
    this.markL1(l1Index);
  }

  /** Notes that an entry of the L1 table changed. */
  markL1(index: number): void {
    this.#l1From = Math.min(this.#l1From, index);
    this.#l1To = Math.max(this.#l1To, index + 1);
  }

  markHeader(): void {
    this.#headerDirty = true;
  }

  /**
   * Writes all metadata back in the order that a crash demands: data, refcounts, L2 tables, L1 table
   * and header; then, and only then, carries releases out. Under the metadata lock.
   */
  async commit(): Promise<void> {
    // One moment: what is linked by now has its data written and its refcounts counted.
    const refcountTable = this.refcounts.blocks.takeDirtyTable();
    const blocks = this.refcounts.blocks.pages.takeDirty();
    const tables = this.tables.takeDirty();
    const l1 = this.#takeDirtyL1();
    const releases = this.refcounts.takeReleases();
    if (traceCommit.enabled) traceCommit.emit({ blocks: blocks.length, tables: tables.length });
    try {
      if (tables.length > 0 && this.external) await this.#barrier(this.data);
      await this.#writeRefcounts(blocks, refcountTable);
      if (tables.length > 0) {
        await this.#barrier(this.storage);
        await writePages(this.storage, tables);
      }
      if (l1 !== null) {
        await this.#barrier(this.storage);
        await this.storage.write(l1.offset, l1.bytes);
      }
    } catch (error) {
      this.#restoreDirty(blocks, tables, l1 !== null);
      for (const { offset, clusters } of releases) this.refcounts.release(offset, clusters);
      throw error;
    }
    if (releases.length > 0) await this.#applyReleases(releases);
  }

  async #writeRefcounts(blocks: PageImage[], table: PageImage | null): Promise<void> {
    await writePages(this.storage, blocks);
    if (table !== null) {
      await this.#barrier(this.storage);
      await this.storage.write(table.offset, table.bytes);
    }
    if (this.refcounts.blocks.tableMoved) {
      this.header.refcountTableOffset = this.refcounts.blocks.tableOffset;
      this.header.refcountTableClusters = this.refcounts.blocks.tableClusters;
      this.refcounts.blocks.tableMoved = false;
      this.#headerDirty = true;
    }
    if (this.#headerDirty && !this.fresh) {
      await this.#barrier(this.storage);
      await this.writeHeader();
    }
  }

  #restoreDirty(blocks: PageImage[], tables: PageImage[], l1: boolean): void {
    this.refcounts.blocks.pages.markDirty(blocks);
    this.refcounts.blocks.markTableDirty();
    this.tables.markDirty(tables);
    if (!l1) return;
    this.#l1From = 0;
    this.#l1To = this.l1.length / 8;
  }

  async #applyReleases(releases: ClusterRun[]): Promise<void> {
    await this.#barrier(this.storage);
    await this.refcounts.applyReleases(releases);
    const { clusterSize } = this.geometry;
    for (const { offset, clusters } of releases) {
      // Shared clusters stay; the check costs a look into a block that was just touched.
      let freed = 0;
      for (let at = offset; at < offset + clusters * clusterSize; at += clusterSize) {
        if ((await this.refcounts.get(at)) === 0) {
          this.#forget(at);
          freed += clusterSize;
        } else {
          if (freed > 0) await this.storage.discard(at - freed, freed);
          freed = 0;
        }
      }
      const end = offset + clusters * clusterSize;
      if (freed > 0) await this.storage.discard(end - freed, freed);
    }
  }

  #forget(offset: number): void {
    const { clusterSize } = this.geometry;
    this.tables.drop(offset);
    this.refcounts.blocks.pages.drop(offset);
    this.occupied.delete(offset, clusterSize);
    if (Math.floor(this.packAt / clusterSize) === offset / clusterSize) this.packAt = 0;
  }

  #takeDirtyL1(): PageImage | null {
    if (this.#l1From >= this.#l1To) return null;
    const [from, to] = [this.#l1From * 8, this.#l1To * 8];
    this.#l1From = Number.POSITIVE_INFINITY;
    this.#l1To = 0;
    return { offset: this.header.l1Offset + from, bytes: Buffer.from(this.l1.subarray(from, to)) };
  }

  async #barrier(storage: Storage): Promise<void> {
    if (!this.fresh) await storage.flush();
  }

  /** Writes the first cluster: the header, its extensions and the backing file's name. */
  async writeHeader(): Promise<void> {
    const head = encodeHead(this.header, this.tail);
    ensure(head !== null, 'The header extensions do not fit into the first cluster', { file: this.storage.name });
    // Dirty until it is written: what a failure leaves behind is freed only with the header that no longer refers to it.
    await this.storage.write(0, head);
    this.#headerDirty = false;
  }
}
