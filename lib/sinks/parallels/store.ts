import { ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import {
  encodeParallelsHeader,
  Flag,
  InUse,
  lastCluster,
  nextCluster,
  type ParallelsGeometry,
  type ParallelsHeader,
  parallelsGeometry,
  SECTOR,
  UNALLOCATED,
  writeBatEntry,
} from '../../layouts/parallels/index.ts';
import { Block } from '../../sources/block-table.ts';
import { parallelsSource } from '../../sources/parallels/index.ts';
import type { Preallocation } from '../../sources/parallels/runtime-options.ts';
import { parallelsShape } from '../../sources/parallels/shape.ts';
import type { Source } from '../../sources/source.ts';
import type { Storage } from '../../storage/storage.ts';
import type { Allocation, BlockStore } from '../blocks/store.ts';
import { WritableTables } from '../blocks/tables.ts';

export interface ParallelsStoreOptions {
  storage: Storage;
  header: ParallelsHeader;
  fresh: boolean;
  /** Behind it nothing is used. */
  end: number;
  preallocation: Preallocation | null;
}

const traceGrow = tracePoint('parallels_grow');

/** A Parallels image open for writing: its BAT, and the one way in which it reaches the disk. */
export class ParallelsStore implements BlockStore {
  readonly format = 'parallels';
  readonly name: string;
  readonly storage: Storage;
  readonly data: Storage;
  readonly size: number;
  readonly blockSize: number;
  readonly fresh: boolean;
  readonly backing = null;
  readonly hasBacking = false;
  readonly canZero = false;
  readonly source: Source;
  readonly #header: ParallelsHeader;
  readonly #geometry: ParallelsGeometry;
  readonly tables: WritableTables;
  readonly #preallocation: Preallocation | null;
  #end: number;
  /** Nothing was ever written from here on: a file reads as zeros there. */
  #untouched: number;
  /** The file was made longer than what is used of it. */
  #tooLong = false;

  constructor({ storage, header, fresh, end, preallocation }: ParallelsStoreOptions) {
    const geometry = parallelsGeometry(header);
    this.name = storage.name;
    this.storage = storage;
    this.data = storage;
    this.size = header.sectors * SECTOR;
    this.blockSize = geometry.clusterSize;
    this.fresh = fresh;
    this.#header = header;
    this.#geometry = geometry;
    this.#preallocation = storage.fixedSize ? null : preallocation;
    this.#end = nextCluster(end, header, geometry);
    this.#untouched = storage.fixedSize ? Number.POSITIVE_INFINITY : this.#end;
    this.tables = new WritableTables({
      storage,
      format: this.format,
      shape: {
        ...parallelsShape(storage, header),
        encode: (bytes, index, state) =>
          writeBatEntry(bytes, index, state === Block.unallocated ? UNALLOCATED : state, geometry),
      },
      what: 'BAT page',
      commit: () => this.commit(),
    });
    this.source = parallelsSource({ storage, header, tables: this.tables, writable: true });
  }

  async allocate(blocks: number): Promise<Allocation> {
    const host = this.#end;
    const end = host + blocks * this.blockSize;
    if (end - this.blockSize > lastCluster(this.#geometry)) {
      throw this.#noSpace('The file is longer than the entries of its format can tell');
    }
    if (this.storage.fixedSize && end > this.storage.size) throw this.#noSpace('No space left on device');
    await this.#preallocate(end);
    this.#end = end;
    return { host, blocks, fresh: host >= this.#untouched };
  }

  takeBack({ host, blocks }: Allocation): void {
    if (host + blocks * this.blockSize !== this.#end) return;
    // Parts of it may have been written.
    this.#untouched = Math.max(this.#untouched, this.#end);
    this.#end = host;
  }

  /**
   * Sets "in use". A Format Extension goes: what it says of the disk (which parts have changed since when) would no
   * longer be true. So does the mark of an empty disk.
   */
  async begin(): Promise<void> {
    this.#header.inUse = InUse.yes;
    this.#header.extensionSector = 0;
    this.#header.flags = (this.#header.flags & ~Flag.empty) >>> 0;
    await this.#writeHeader();
  }

  async commit(): Promise<void> {
    await this.tables.write(async () => {
      if (!this.fresh) await this.storage.flush();
    });
  }

  async complete(): Promise<void> {
    if (this.#tooLong) await this.storage.truncate(this.#end);
    await this.storage.flush();
    this.#header.inUse = InUse.no;
    await this.#writeHeader();
  }

  close(discard: boolean): Promise<void> {
    return this.storage.close({ discard });
  }

  /** Makes the file longer than it needs to be, if it must become longer at all and the options say so. */
  async #preallocate(end: number): Promise<void> {
    const { size } = this.storage;
    if (this.#preallocation === null || end <= size) return;
    const { size: step, mode } = this.#preallocation;
    const target = Math.max(end, size + step);
    if (traceGrow.enabled) traceGrow.emit({ file: this.name, from: size, to: target, mode });
    this.#tooLong = true;
    if (mode === 'falloc') await this.storage.allocate(size, target - size);
    else await this.storage.truncate(target);
  }

  async #writeHeader(): Promise<void> {
    await this.storage.write(0, encodeParallelsHeader(this.#header));
    await this.storage.flush();
  }

  #noSpace(message: string): ImageError {
    return new ImageError('no-space', message, { file: this.name, format: this.format, code: 'ENOSPC' });
  }
}
