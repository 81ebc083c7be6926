import { alignUp } from '../../core/binary.ts';
import { ImageError } from '../../core/errors.ts';
import {
  batGeometry,
  encodeDiskSize,
  MAX_DISK_SIZE,
  NO_GUID,
  newGuid,
  type VhdxHeader,
} from '../../layouts/vhdx/index.ts';
import { BlockSource } from '../../sources/block-source.ts';
import { Block } from '../../sources/block-table.ts';
import type { VhdxHead } from '../../sources/vhdx/head.ts';
import type { Storage } from '../../storage/storage.ts';
import type { Allocation, BlockStore } from '../blocks/store.ts';
import { WritableTables } from '../blocks/tables.ts';
import { VhdxHeaders } from './headers.ts';
import { Journal } from './journal.ts';
import { batShape, fitsRegion } from './shape.ts';
import { completeNew } from './structures.ts';

const FORMAT = 'vhdx';

/**
 * Blocks are of megabytes: what is zeros in one is left out, and stays a hole of the file. A page of a file system's.
 */
export const SPARSE_UNIT = 4096;

export interface VhdxStoreOptions {
  /** What is known of the file; `parameters` and `geometry` follow the disk's size. */
  head: VhdxHead;
  fresh: boolean;
  /** Where the file's blocks end: the next one goes there. */
  end: number;
  /** New blocks of a disk that grows are said to be zeros. */
  blockStateZero: boolean;
}

/** A VHDX file without parent that is written to. Of one that exists, the structures change through the log. */
export class VhdxStore implements BlockStore {
  readonly format = FORMAT;
  readonly name: string;
  readonly storage: Storage;
  readonly data: Storage;
  readonly blockSize: number;
  readonly fresh: boolean;
  readonly backing = null;
  readonly hasBacking = false;
  readonly canZero = true;
  readonly source: BlockSource;
  readonly #options: VhdxStoreOptions;
  readonly #head: VhdxHead;
  readonly #headers: VhdxHeaders;
  /** Null for a new file: nobody reads it before it is complete. */
  readonly #journal: Journal | null;
  readonly tables: WritableTables;
  #end: number;
  /** From here on the file has never been written to. */
  #blankFrom: number;

  constructor(options: VhdxStoreOptions) {
    const { head, fresh, end } = options;
    const { storage, header, slot, parameters } = head;
    this.#options = options;
    this.#head = head;
    this.name = storage.name;
    this.storage = storage;
    this.data = storage;
    this.blockSize = parameters.blockSize;
    this.fresh = fresh;
    this.#end = end;
    this.#blankFrom = storage.fixedSize ? Number.POSITIVE_INFINITY : end;
    this.#headers = new VhdxHeaders(storage, header, slot);
    this.#journal = fresh ? null : new Journal(storage, this.#headers);
    this.tables = new WritableTables({
      storage: this.#journal ?? storage,
      format: FORMAT,
      shape: batShape(head),
      what: 'part of the BAT',
      commit: () => this.commit(),
    });
    this.source = new BlockSource({
      format: FORMAT,
      storage,
      size: () => this.size,
      blockSize: this.blockSize,
      tables: this.tables,
      describe: () => ({ clusterSize: this.blockSize }),
      writable: true,
      opaque: true,
    });
  }

  get size(): number {
    return this.#head.parameters.size;
  }

  async allocate(blocks: number): Promise<Allocation> {
    const host = this.#end;
    const end = host + blocks * this.blockSize;
    if (this.storage.fixedSize && end > this.storage.size) throw this.#noSpace('No space left on device', 'ENOSPC');
    this.#end = end;
    return { host, blocks, fresh: host >= this.#blankFrom };
  }

  takeBack({ host, blocks }: Allocation): void {
    const end = host + blocks * this.blockSize;
    this.#blankFrom = Math.max(this.#blankFrom, end);
    if (this.#end === end) this.#end = host;
  }

  /** Both GUIDs must change before anything else does (section 2.2.2). */
  async begin(): Promise<void> {
    await this.#headers.update({ fileWriteGuid: newGuid(), dataWriteGuid: newGuid() });
  }

  async commit(): Promise<void> {
    const journal = this.#journal;
    if (journal === null) return this.tables.write();
    if (!this.tables.dirty && !journal.dirty) return;
    await this.tables.write();
    await this.#commitJournal(journal);
  }

  async complete(): Promise<void> {
    if (this.fresh) {
      await this.#reachEnd();
      await completeNew(this.#head);
      return;
    }
    await this.storage.flush();
    // Twice, so that both headers are up to date.
    const changes: Partial<VhdxHeader> = { logGuid: NO_GUID };
    await this.#headers.update(changes);
    await this.#headers.update(changes);
  }

  checkResize(size: number): void {
    const { geometry, regions } = this.#head;
    const wanted = batGeometry(this.#resized(size));
    const { length } = regions.bat;
    const fits = wanted.blocks <= geometry.blocks || (fitsRegion(geometry, length) && fitsRegion(wanted, length));
    if (fits && size <= MAX_DISK_SIZE) return;
    throw this.#noSpace(`The block allocation table has no room for a disk of ${size} bytes`);
  }

  async resize(size: number): Promise<void> {
    const next = this.#resized(size);
    const { geometry } = this.#head;
    this.#head.geometry = batGeometry(next);
    try {
      await this.#clearEntries(geometry.blocks, this.#head.geometry.blocks);
      await this.commit();
    } catch (error) {
      this.#head.geometry = geometry;
      throw error;
    }
    // Entries before the size that counts them in: a crash between both leaves the old disk.
    this.#head.parameters = next;
    if (this.#journal === null) return;
    await this.#journal.write(this.#head.sizeAt, encodeDiskSize(next.size));
    await this.#commitJournal(this.#journal);
  }

  async close(discard: boolean): Promise<void> {
    await this.storage.close({ discard });
  }

  #resized(size: number) {
    const { parameters } = this.#head;
    return { ...parameters, size: alignUp(size, parameters.logicalSectorSize) };
  }

  async #commitJournal(journal: Journal): Promise<void> {
    if (!journal.dirty) return;
    await this.#reachEnd();
    await this.storage.flush();
    await journal.commit();
  }

  /** What blocks [first, end), which the disk did not have, are from now on. */
  async #clearEntries(first: number, end: number): Promise<void> {
    const { leaveAllocated } = this.#head.parameters;
    for (let block = first; block < end; ) {
      const stop = Math.min(end, this.tables.pageEnd(block));
      const page = await this.tables.pageForWrite(block);
      const empty = this.#options.blockStateZero ? Block.zero : Block.unallocated;
      for (; block < stop; block += 1) page.set(block, leaveAllocated ? (await this.allocate(1)).host : empty);
      page.release();
    }
  }

  /** The file ends behind its last block: what was not written of it are zeros. */
  async #reachEnd(): Promise<void> {
    if (!this.storage.fixedSize && this.storage.size < this.#end) await this.storage.truncate(this.#end);
  }

  #noSpace(message: string, code?: string): ImageError {
    return new ImageError('no-space', message, { file: this.name, format: FORMAT, code });
  }
}
