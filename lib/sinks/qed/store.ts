import { alignUp } from '../../core/binary.ts';
import { ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import {
  ENTRY_BYTES,
  encodeQedHeader,
  Feature,
  HEADER_BYTES,
  headerBytes,
  l1EntriesFor,
  type QedHeader,
  qedGeometry,
  UNALLOCATED,
  writeEntry,
  ZERO,
} from '../../layouts/qed/index.ts';
import { Block } from '../../sources/block-table.ts';
import { readL1 } from '../../sources/qed/head.ts';
import { qedSource } from '../../sources/qed/index.ts';
import { qedShape } from '../../sources/qed/shape.ts';
import type { BackingReference, Source } from '../../sources/source.ts';
import type { Storage } from '../../storage/storage.ts';
import type { Allocation, BlockStore } from '../blocks/store.ts';
import { WritableTables } from '../blocks/tables.ts';
import { checkBackingName, checkDiskSize, featuresFor } from './options.ts';
import { TablePlaces } from './places.ts';

export interface QedStoreOptions {
  storage: Storage;
  header: QedHeader;
  /** The L1 table, as far as the disk needs it. */
  l1: Buffer;
  /** What the header says of a backing file, and its chain, opened. */
  reference: BackingReference | null;
  backing: Source | null;
  fresh: boolean;
  /** Behind it nothing is used. */
  end: number;
}

const traceCommit = tracePoint('qed_commit');

/** A QED image open for writing: its tables, and the one way in which they reach the disk. */
export class QedStore implements BlockStore {
  readonly format = 'qed';
  readonly name: string;
  readonly storage: Storage;
  readonly data: Storage;
  readonly blockSize: number;
  readonly fresh: boolean;
  readonly backing: Source | null;
  readonly hasBacking: boolean;
  readonly canZero = true;
  readonly source: Source;
  readonly #header: QedHeader;
  readonly tables: WritableTables;
  readonly #places: TablePlaces;
  #l1: Buffer;
  /** Entries [from, to) of the L1 table that the file doesn't have yet. */
  #l1From = Number.POSITIVE_INFINITY;
  #l1To = 0;
  #end: number;
  /** Nothing was ever written from here on: a file reads as zeros there. */
  #untouched: number;

  constructor({ storage, header, l1, reference, backing, fresh, end }: QedStoreOptions) {
    this.name = storage.name;
    this.storage = storage;
    this.data = storage;
    this.blockSize = header.clusterSize;
    this.fresh = fresh;
    this.backing = backing;
    this.hasBacking = reference !== null || backing !== null;
    this.#header = header;
    this.#l1 = l1;
    this.#places = new TablePlaces(header, l1);
    this.#places.checkApart(storage.name);
    this.#end = end;
    this.#untouched = storage.fixedSize ? Number.POSITIVE_INFINITY : end;
    this.tables = new WritableTables({
      storage,
      format: this.format,
      shape: this.#shape(),
      what: 'L2 table',
      commit: () => this.commit(),
    });
    this.source = qedSource({ storage, header, backing: reference, tables: this.tables, writable: true });
  }

  #shape() {
    const shape = qedShape({ storage: this.storage, header: this.#header, l1: () => this.#l1 });
    return {
      pageEntries: shape.pageEntries,
      entrySize: shape.entrySize,
      get blocks() {
        return shape.blocks;
      },
      pageOffset: shape.pageOffset,
      decode: (bytes: Buffer, index: number, block: number) => {
        const host = shape.decode(bytes, index, block);
        if (host >= 0 && this.#places.holds(host)) throw this.#corrupt('A data cluster lies in the tables', host);
        return host;
      },
      encode: (bytes: Buffer, index: number, state: number) =>
        writeEntry(bytes, index, state === Block.zero ? ZERO : state === Block.unallocated ? UNALLOCATED : state),
      makePage: (page: number) => this.#makeTable(page, shape.pagesPerTable, shape.pageEntries),
    };
  }

  get size(): number {
    return this.#header.size;
  }

  async allocate(blocks: number): Promise<Allocation> {
    const host = this.#take(blocks * this.blockSize);
    return { host, blocks, fresh: host >= this.#untouched };
  }

  takeBack({ host, blocks }: Allocation): void {
    if (host + blocks * this.blockSize !== this.#end) return;
    // Parts of it may have been written.
    this.#untouched = Math.max(this.#untouched, this.#end);
    this.#end = host;
  }

  /** Also drops the features that a writer who doesn't know them must not leave ("autoclear_features"). */
  async begin(): Promise<void> {
    this.#header.features |= Feature.needCheck;
    this.#header.autoclear = 0n;
    await this.#writeHeader();
  }

  /** Data, then L2 tables, then the L1 table: whatever is referred to is on the disk before. */
  async commit(): Promise<void> {
    const l1Dirty = this.#l1From < this.#l1To;
    if (!this.tables.dirty && !l1Dirty) return;
    if (traceCommit.enabled) traceCommit.emit({ file: this.name, l1: l1Dirty, end: this.#end });
    const l1 = this.#takeL1();
    try {
      await this.tables.write(() => this.#barrier());
      if (l1 === null) return;
      await this.#barrier();
      await this.storage.write(this.#header.l1Offset + l1.from * ENTRY_BYTES, l1.bytes);
    } catch (error) {
      if (l1 !== null) this.#markL1(l1.from, l1.from + l1.bytes.length / ENTRY_BYTES);
      throw error;
    }
  }

  async complete(): Promise<void> {
    await this.storage.flush();
    this.#header.features &= ~Feature.needCheck;
    await this.#writeHeader();
  }

  checkResize(size: number): void {
    if (size < this.size && !this.fresh) {
      throw new ImageError('unsupported', 'Shrinking images is currently not supported', {
        file: this.name,
        format: this.format,
        operation: 'truncate',
      });
    }
    checkDiskSize(size, this.#header);
  }

  async resize(size: number): Promise<void> {
    this.checkResize(size);
    const old = this.size;
    const entries = l1EntriesFor(size, qedGeometry(this.#header));
    if (size < old) await this.#forgetBehind(size);
    if (entries * ENTRY_BYTES > this.#l1.length) {
      const longer = await readL1(this.storage, this.#header, size);
      this.#l1.copy(longer);
      this.#l1 = longer;
    }
    this.#header.size = size;
    if (this.fresh) return;
    try {
      await this.#hideBacking(old);
      // All that the longer disk shows, before the header tells of it.
      await this.commit();
      await this.storage.flush();
    } catch (error) {
      this.#header.size = old;
      throw error;
    }
    await this.#writeHeader();
  }

  /** Blocks behind `from`, where the disk ended, read as zeros, also where the backing file is longer. */
  async #hideBacking(from: number): Promise<void> {
    const stop = Math.ceil(Math.min(this.size, this.backing?.size ?? 0) / this.blockSize);
    for (let block = Math.ceil(from / this.blockSize); block < stop; ) {
      const end = Math.min(stop, this.tables.pageEnd(block));
      const page = await this.tables.pageForWrite(block);
      for (; block < end; block += 1) page.set(block, Block.zero);
      page.release();
    }
  }

  /** In one write, with the name right behind the header, as QEMU has it too. */
  async setBacking(backing: BackingReference | null): Promise<void> {
    const name = Buffer.from(backing?.filename ?? '');
    checkBackingName(name.length, headerBytes(this.#header));
    const others = this.#header.features & ~(Feature.backingFile | Feature.backingIsRaw);
    Object.assign(this.#header, {
      features: others | featuresFor(backing),
      backingOffset: backing === null ? 0 : HEADER_BYTES,
      backingLength: name.length,
    });
    await this.storage.write(0, Buffer.concat([encodeQedHeader(this.#header), name]));
    await this.storage.flush();
  }

  close(discard: boolean): Promise<void> {
    return this.storage.close({ discard });
  }

  /** A disk that gets longer again must not show what it held. */
  async #forgetBehind(size: number): Promise<void> {
    const stop = Math.ceil(this.size / this.blockSize);
    for (let block = Math.ceil(size / this.blockSize); block < stop; block = this.tables.pageEnd(block)) {
      const page = await this.tables.page(block);
      if (page === null) continue;
      const end = Math.min(stop, this.tables.pageEnd(block));
      for (let each = block; each < end; each += 1) {
        if (page.entry(each) !== Block.unallocated) page.set(each, Block.unallocated);
      }
      page.release();
    }
  }

  #take(bytes: number): number {
    const host = this.#end;
    if (this.storage.fixedSize && host + bytes > this.storage.size) {
      throw new ImageError('no-space', 'No space left on device', {
        file: this.name,
        format: this.format,
        code: 'ENOSPC',
      });
    }
    this.#end += bytes;
    return host;
  }

  /** Space for a whole table, all of which reads as zeros; pages of it are then found where they lie. */
  async #makeTable(page: number, pagesPerTable: number, pageEntries: number): Promise<number> {
    const { tableBytes } = qedGeometry(this.#header);
    const host = this.#take(tableBytes);
    await this.storage.zero(host, tableBytes, { unmap: true });
    const index = Math.floor(page / pagesPerTable);
    writeEntry(this.#l1, index, host);
    this.#markL1(index, index + 1);
    this.#places.add(host);
    return host + (page % pagesPerTable) * pageEntries * ENTRY_BYTES;
  }

  #markL1(from: number, to: number): void {
    this.#l1From = Math.min(this.#l1From, from);
    this.#l1To = Math.max(this.#l1To, to);
  }

  #takeL1(): { from: number; bytes: Buffer } | null {
    const [from, to] = [this.#l1From, this.#l1To];
    if (from >= to) return null;
    this.#l1From = Number.POSITIVE_INFINITY;
    this.#l1To = 0;
    return { from, bytes: Buffer.from(this.#l1.subarray(from * ENTRY_BYTES, to * ENTRY_BYTES)) };
  }

  async #writeHeader(): Promise<void> {
    await this.storage.write(0, encodeQedHeader(this.#header));
    await this.storage.flush();
  }

  async #barrier(): Promise<void> {
    if (!this.fresh) await this.storage.flush();
  }

  #corrupt(message: string, offset: number): ImageError {
    return new ImageError('corrupt', message, { file: this.name, format: this.format, offset });
  }
}

/** Where an image in a file begins to grow. */
export function fileEnd(storage: Storage, header: QedHeader): number {
  return alignUp(storage.size, header.clusterSize);
}
