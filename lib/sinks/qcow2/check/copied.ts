import { COMPRESSED_HIGH, COPIED_HIGH, entryOffset, readRefcount } from '../../../layouts/qcow2/index.ts';
import { BATCH_BYTES, ClusterReader, readAhead } from '../cluster-reader.ts';
import { type CheckedImage, hex64 } from './context.ts';
import type { ClusterCounts } from './counts.ts';
import { refcountBlockOffset } from './refcount-table.ts';
import { emptyEntry, type L1Visit, l1Visits, readL1 } from './walk.ts';

export interface CopiedOptions {
  /** The refcounts of all clusters of the file. */
  refcounts: ClusterCounts;
  /** L1 entries that refer to the table in a cluster. */
  tables: ClusterCounts;
  /** 1 for clusters of L2 tables in which something is wrong. */
  doubtful: ClusterCounts;
  /** Indexes of refcount blocks that can't be read. */
  unreadable: ReadonlySet<number>;
  repair: boolean;
}

/** Refcount blocks kept for clusters past the end of the file. */
const MAX_BLOCKS = 16;

/**
 * Checks the copied flags of the active L1 table and of its L2 tables: set exactly where the refcount is one. A flag on
 * a shared cluster would let a write change a snapshot.
 */
export class CopiedCheck {
  readonly #image: CheckedImage;
  readonly #options: CopiedOptions;
  readonly #clusters: number;
  readonly #reader: ClusterReader;
  readonly #seen = new Set<number>();
  readonly #blocks = new Map<number, Buffer>();

  constructor(image: CheckedImage, options: CopiedOptions) {
    this.#image = image;
    this.#options = options;
    this.#clusters = image.countedClusters;
    this.#reader = new ClusterReader(image.storage, image.geometry.clusterSize);
  }

  async run(): Promise<void> {
    const image = this.#image;
    const { clusterSize } = image.geometry;
    image.renewBudget();
    const l1 = await readL1(image, { offset: image.header.l1Offset, entries: image.header.l1Entries });
    const most = Math.max(1, Math.floor(BATCH_BYTES / clusterSize));
    const load = (batch: readonly L1Visit[]) => this.#load(batch);
    for await (const { batch, loaded } of readAhead(l1Visits(l1), { most, load })) {
      for (const visit of batch) {
        if (visit.offset === 0) await this.#emptyEntry(visit);
        if (visit.offset === 0 || !(await this.#table(visit))) continue;
        const bytes = loaded.get(visit.offset);
        if (bytes !== undefined) await this.#entries(visit.offset, bytes);
      }
      this.#reader.release(loaded);
    }
  }

  /** Tables come once; again only as long as that can't go on for hours. */
  async #load(batch: readonly L1Visit[]): Promise<Map<number, Buffer>> {
    const { storage, geometry } = this.#image;
    const due = new Set<number>();
    for (const { offset } of batch) {
      if (offset === 0 || offset >= storage.size || due.has(offset)) continue;
      if (this.#seen.has(offset) && !this.#image.affords(storage.size)) continue;
      if (!this.#image.affords(geometry.clusterSize)) continue;
      this.#image.spend(geometry.clusterSize);
      if (this.#seen.size < MAX_SEEN) this.#seen.add(offset);
      due.add(offset);
    }
    return this.#reader.read(due);
  }

  /** @returns false where the table's refcount can't be told: nothing below it is looked at */
  async #table({ index, high, low, offset }: L1Visit): Promise<boolean> {
    const { geometry } = this.#image;
    const refcount = await this.#refcount(Math.floor(offset / geometry.clusterSize));
    if (refcount === null) return false;
    if ((refcount === 1) === high >>> 31 > 0) return true;
    const what = `OFLAG_COPIED L2 cluster: l1_index=${index} l1_entry=${hex64(high, low)} refcount=${refcount}`;
    if (!this.#say(what, this.#mayWriteL1(index))) return true;
    const entry = Buffer.alloc(8);
    entry.writeUInt32BE((high ^ COPIED_HIGH) >>> 0, 0);
    entry.writeUInt32BE(low, 4);
    await this.#writeL1(index, entry);
    return true;
  }

  async #emptyEntry({ index, high, low }: L1Visit): Promise<void> {
    if (this.#say(emptyEntry(index, high, low), this.#mayWriteL1(index))) await this.#writeL1(index, Buffer.alloc(8));
  }

  /** An L1 table that lies over anything else is not written to. */
  #mayWriteL1(index: number): boolean {
    const { header, geometry } = this.#image;
    const cluster = Math.floor((header.l1Offset + index * 8) / geometry.clusterSize);
    if (!this.#options.repair || !this.#image.isInFile(header.l1Offset, header.l1Entries * 8)) return false;
    return this.#options.refcounts.get(cluster) === 1;
  }

  #writeL1(index: number, entry: Buffer): Promise<void> {
    return this.#image.storage.write(this.#image.header.l1Offset + index * 8, entry);
  }

  async #entries(tableOffset: number, bytes: Buffer): Promise<void> {
    const { geometry, external } = this.#image;
    const { l2Entries, l2EntrySize, clusterSize } = geometry;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    let mayWrite: boolean | null = null;
    let dirty = false;
    for (let at = 0; at < l2Entries * l2EntrySize; at += l2EntrySize) {
      const high = view.getUint32(at);
      if ((high & COMPRESSED_HIGH) !== 0) continue;
      const low = view.getUint32(at + 4);
      const offset = entryOffset(high, low);
      const copied = high >>> 31 === 1;
      if (offset === 0 && !(external && copied)) continue;
      const cluster = Math.floor(offset / clusterSize);
      const refcount = external ? 1 : (this.#known(cluster) ?? (await this.#refcount(cluster)));
      if (refcount === null || (refcount === 1) === copied) continue;
      mayWrite ??= this.#options.repair && this.#mayWrite(tableOffset);
      const what = `OFLAG_COPIED data cluster: l2_entry=${hex64(high, low)} refcount=${refcount}`;
      if (!this.#say(what, mayWrite)) continue;
      view.setUint32(at, (high ^ COPIED_HIGH) >>> 0);
      dirty = true;
    }
    if (dirty) await this.#image.storage.write(tableOffset, bytes);
  }

  /**
   * A table that is something else as well is not written to, with one exception: an entry that takes a sound table for
   * data has to lose its flag, or the guest would write over the table.
   */
  #mayWrite(tableOffset: number): boolean {
    const { clusterSize } = this.#image.geometry;
    if (tableOffset % clusterSize !== 0) return false;
    const { refcounts, tables, doubtful } = this.#options;
    const cluster = tableOffset / clusterSize;
    if (refcounts.get(cluster) === tables.get(cluster)) return true;
    return this.#image.foundations.get(cluster) === 0 && doubtful.get(cluster) === 0;
  }

  #say(what: string, repair: boolean): boolean {
    if (repair) {
      this.#image.report(`Repairing ${what}`);
      this.#image.findings.corruptionsFixed += 1;
    } else this.#image.corrupt(`ERROR ${what}`);
    return repair;
  }

  /** The refcount of a cluster of the file, if no block of refcounts is unreadable; undefined: see `#refcount`. */
  #known(cluster: number): number | undefined {
    if (cluster >= this.#clusters || this.#options.unreadable.size > 0) return undefined;
    return this.#ofFile(cluster);
  }

  /** More references than the width can hold are told apart by the counts alone. */
  #ofFile(cluster: number): number {
    return Math.min(this.#options.refcounts.get(cluster), this.#image.maxRefcount);
  }

  /** The refcount of any cluster, also past the end of a file that was cut off; null where it can't be read. */
  async #refcount(cluster: number): Promise<number | null> {
    const { refcountTable, geometry, storage } = this.#image;
    const index = Math.floor(cluster / geometry.refcountsPerBlock);
    if (this.#options.unreadable.has(index)) return null;
    if (cluster < this.#clusters) return this.#ofFile(cluster);
    const offset = index * 8 < refcountTable.length ? refcountBlockOffset(refcountTable, index) : 0;
    if (offset === 0 || offset >= storage.size) return 0;
    if (offset % geometry.clusterSize !== 0) return null;
    const block = await this.#block(offset);
    try {
      return readRefcount(block, cluster % geometry.refcountsPerBlock, geometry.refcountBits);
    } catch {
      // Larger than any number of references: certainly not one.
      return Number.MAX_SAFE_INTEGER;
    }
  }

  async #block(offset: number): Promise<Buffer> {
    const known = this.#blocks.get(offset);
    if (known !== undefined) return known;
    const block = (await this.#reader.read([offset])).get(offset) as Buffer;
    if (this.#blocks.size >= MAX_BLOCKS) this.#blocks.clear();
    this.#blocks.set(offset, block);
    return block;
  }
}

/** Bounds the memory that an L1 table of millions of entries can ask for. */
const MAX_SEEN = 1_000_000;
