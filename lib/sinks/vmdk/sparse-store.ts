import { alignUp } from '../../core/binary.ts';
import { ImageError } from '../../core/errors.ts';
import {
  encodeDirectory,
  encodeSparseHeader,
  hasZeroGrains,
  MAX_HOST_BYTES,
  newSparseHeader,
  SECTOR,
  type SparseHeader,
  tablesFor,
} from '../../layouts/vmdk/index.ts';
import type { BlockSource } from '../../sources/block-source.ts';
import { GrainShape, rulesOf } from '../../sources/vmdk/grain-shape.ts';
import { sparseReaderOf } from '../../sources/vmdk/readers.ts';
import type { Storage } from '../../storage/storage.ts';
import type { Allocation, BlockStore } from '../blocks/store.ts';
import { WritableTables } from '../blocks/tables.ts';
import { GrainTables } from './grain-tables.ts';

export interface SparseStoreOptions {
  storage: Storage;
  header: SparseHeader & { directory: number };
  /** The grain directory, and its copy if there is one. */
  directory: Buffer;
  redundant: Buffer | null;
  fresh: boolean;
  backing: BlockStore['backing'];
  hasBacking: boolean;
  /** The text that a new image carries in its extent; null: its descriptor is a file of its own. */
  descriptor?: Buffer | null;
}

/** A hosted sparse extent with plain grains, for the shared write path. Its file is closed by whoever opened it. */
export class SparseStore implements BlockStore {
  readonly format = 'vmdk';
  readonly name: string;
  readonly storage: Storage;
  readonly data: Storage;
  readonly size: number;
  readonly blockSize: number;
  readonly fresh: boolean;
  readonly backing: BlockStore['backing'];
  readonly hasBacking: boolean;
  readonly canZero: boolean;
  readonly source: BlockSource;
  readonly #options: SparseStoreOptions;
  readonly tables: WritableTables;
  readonly #grains: GrainTables;
  /** Where the next grain goes. */
  #end: number;

  constructor(options: SparseStoreOptions) {
    const { storage, header, directory, redundant, fresh } = options;
    const rules = rulesOf(header);
    this.#options = options;
    this.name = storage.name;
    this.storage = storage;
    this.data = storage;
    this.size = rules.size;
    this.blockSize = rules.grainBytes;
    this.fresh = fresh;
    this.backing = options.backing;
    this.hasBacking = options.hasBacking;
    this.canZero = hasZeroGrains(header);
    const taken = storage.fixedSize ? 0 : storage.size;
    this.#end = alignUp(Math.max(header.overhead * SECTOR, taken), this.blockSize);
    this.#grains = new GrainTables({
      shape: new GrainShape(rules, directory),
      header,
      redundant,
      reserve: (bytes) => this.#reserve(alignUp(bytes, this.blockSize)),
    });
    this.tables = new WritableTables({
      storage,
      format: this.format,
      shape: this.#grains,
      what: 'grain table',
      commit: () => this.commit(),
      mirrors: redundant === null ? undefined : (offset) => this.#grains.mirrors(offset),
    });
    this.source = sparseReaderOf({ storage, header, tables: this.tables, writable: true });
  }

  async allocate(blocks: number): Promise<Allocation> {
    return { host: this.#reserve(blocks * this.blockSize), blocks, fresh: !this.storage.fixedSize };
  }

  takeBack({ host, blocks }: Allocation): void {
    // What was written there already must not be taken for zeros: only behind the file's end is nothing.
    if (this.#end === host + blocks * this.blockSize && this.storage.size <= host) this.#end = host;
  }

  async commit(): Promise<void> {
    const { storage, fresh } = this.#options;
    await this.tables.write(fresh ? undefined : () => storage.flush());
    const entries = this.#grains.takeDirty();
    if (entries.length === 0) return;
    if (!fresh) await storage.flush();
    for (const { offset, bytes } of entries) await storage.write(offset, bytes);
  }

  async complete(): Promise<void> {
    const { storage, header, descriptor = null, fresh } = this.#options;
    await storage.flush();
    if (!fresh) return;
    if (descriptor !== null) {
      await storage.write(header.descriptorSector * SECTOR, descriptor);
      await storage.flush();
    }
    await storage.write(0, encodeSparseHeader(header));
    await storage.flush();
  }

  async close(): Promise<void> {}

  #reserve(bytes: number): number {
    const host = this.#end;
    if (host + bytes > MAX_HOST_BYTES) {
      throw new ImageError('no-space', 'A sparse extent cannot hold more than 2 TiB', {
        file: this.name,
        format: this.format,
        operation: 'write',
      });
    }
    this.#end = host + bytes;
    return host;
  }
}

export interface NewSparseStore extends Pick<SparseStoreOptions, 'storage' | 'backing' | 'hasBacking' | 'descriptor'> {
  /** Guest bytes; whole sectors. */
  size: number;
  zeroGrains: boolean;
}

/** Lays a new extent out in an empty file: both directories, and room for all tables. Its first sector stays empty. */
export async function newSparseStore({ size, zeroGrains, ...rest }: NewSparseStore): Promise<SparseStore> {
  const { storage } = rest;
  const header = newSparseHeader({ size, zeroGrains });
  const tables = tablesFor(header);
  const directory = encodeDirectory(header.directory, tables);
  const redundant = encodeDirectory(header.redundantDirectory, tables);
  const end = header.overhead * SECTOR;
  if (storage.fixedSize) {
    if (end > storage.size) throw new ImageError('no-space', 'The device is too small for the image');
    await storage.zero(0, end);
  } else {
    await storage.truncate(end);
  }
  await storage.write(header.redundantDirectory * SECTOR, redundant);
  await storage.write(header.directory * SECTOR, directory);
  return new SparseStore({ ...rest, header, directory, redundant, fresh: true });
}
