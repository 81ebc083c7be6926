import { ensure, ImageError } from '../../core/errors.ts';
import {
  Autoclear,
  encodeHead,
  type HeaderTail,
  type Qcow2Geometry,
  type Qcow2Header,
} from '../../layouts/qcow2/index.ts';
import type { ClusterCipher } from '../../sources/encryption/cluster-cipher.ts';
import { luksPlace } from '../../sources/qcow2/encryption.ts';
import type { Source } from '../../sources/source.ts';
import type { Storage } from '../../storage/storage.ts';
import { Mutex } from '../locks.ts';
import { type Page, PageCache } from '../pages.ts';
import { Qcow2Bitmaps } from './bitmaps/index.ts';
import { commitMetadata } from './commit.ts';
import { ActiveL1 } from './l1.ts';
import { MetadataClusters } from './overlap.ts';
import { type ClusterRun, Refcounts } from './refcounts.ts';

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
  /** Clusters are encrypted with it; null: they are plain. */
  cipher: ClusterCipher | null;
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
  readonly cipher: ClusterCipher | null;
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
  readonly activeL1: ActiveL1;
  #headerDirty = false;
  #prepared = false;

  constructor(options: Qcow2ImageOptions) {
    this.storage = options.storage;
    this.data = options.data;
    this.header = options.header;
    this.tail = options.tail;
    this.geometry = options.geometry;
    this.backing = options.backing;
    this.cipher = options.cipher;
    this.fresh = options.fresh;
    this.activeL1 = new ActiveL1(options.l1, options.geometry.clusterSize);
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
    const luks = luksPlace(this);
    if (luks !== null) this.occupied.add(luks.offset, luks.length);
    for (let index = 0; index < this.activeL1.entries; index += 1) {
      const { offset } = this.activeL1.entry(index);
      if (offset !== 0) this.occupied.add(offset, clusterSize);
    }
  }

  /** The active L1 table, for reading. */
  get l1(): Buffer {
    return this.activeL1.bytes;
  }

  /** Data clusters are in a file of their own, where host and guest offsets are the same. */
  get external(): boolean {
    return this.data !== this.storage;
  }

  /** The L2 table for reading, pinned; null where the L1 entry has none. Under the metadata lock. */
  async table(l1Index: number): Promise<Page | null> {
    const { offset } = this.activeL1.entry(l1Index);
    if (offset === 0) return null;
    const page = await this.#loadTable(offset);
    page.pins += 1;
    return page;
  }

  /** The L2 table for writing, pinned: made where there is none, copied where a snapshot shares it. */
  async tableForWrite(l1Index: number): Promise<Page> {
    const { clusterSize } = this.geometry;
    const { offset, copied } = this.activeL1.entry(l1Index);
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
    this.activeL1.set(l1Index, run.offset, true);
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

  /** Takes another L1 table, which has been written at `offset`. */
  replaceL1(l1: Buffer, offset: number): void {
    this.activeL1.replace(l1);
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
        await this.barrier();
      }
      if (kept !== this.header.autoclear) {
        this.header.autoclear = kept;
        await this.writeHeader();
        await this.barrier();
      }
      this.#prepared = true;
    });
  }

  /** The header has to be written with the next commit. */
  markHeader(): void {
    this.#headerDirty = true;
  }

  get headerDirty(): boolean {
    return this.#headerDirty;
  }

  /** See `commitMetadata`. Under the metadata lock. */
  commit(): Promise<void> {
    return commitMetadata(this);
  }

  /** A cluster is free on the disk: whatever was in it is not looked up any more. */
  forget(offset: number): void {
    const { clusterSize } = this.geometry;
    this.tables.drop(offset);
    this.refcounts.blocks.pages.drop(offset);
    this.occupied.delete(offset, clusterSize);
    if (Math.floor(this.packAt / clusterSize) === offset / clusterSize) this.packAt = 0;
  }

  /** What was written before it is on the disk before what is written after it; a new image is in no need of that. */
  async barrier(storage: Storage = this.storage): Promise<void> {
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
