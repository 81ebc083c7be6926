import { LRUCache } from 'lru-cache';
import { tracePoint } from '../../core/trace.ts';
import { entryOffset, type Qcow2Geometry } from '../../layouts/qcow2/index.ts';
import type { Storage } from '../../storage/storage.ts';
import { corrupt } from './context.ts';

/**
 * Where a reader of an image gets its L1 and L2 tables from. The write path has tables of its own, with
 * changes that the file doesn't have yet, and hands them to its reading half through this.
 */
export interface TableProvider {
  /** Entries of the L1 table. */
  readonly entries: number;
  /** Host offset of the L2 table at an index below `entries`; 0: none. `corrupt` where it can't be one. */
  tableOffset(l1Index: number): number;
  /** The L2 table at that host offset, if it is in memory: true until the caller next waits for anything. */
  peek(offset: number): Buffer | undefined;
  /** The L2 tables at these host offsets, in that order. */
  load(offsets: readonly number[]): Promise<Buffer[]>;
}

/** L2 tables kept in memory: with 64 KiB clusters these cover 64 GiB of the disk. */
const CACHE_BYTES = 8 * 1024 * 1024;
/** Tables that lie closer than this are read together, with what is between them. */
const READ_GAP = 64 * 1024;
const MAX_READ = 2 * 1024 * 1024;

const traceRead = tracePoint('qcow2_read_tables');

/** Reads tables from the file and keeps the most recently used. */
export class CachedTables implements TableProvider {
  readonly entries: number;
  readonly #storage: Storage;
  readonly #l1: Buffer;
  readonly #geometry: Qcow2Geometry;
  readonly #cache: LRUCache<number, Buffer>;

  constructor(storage: Storage, l1: Buffer, geometry: Qcow2Geometry) {
    this.entries = l1.length / 8;
    this.#storage = storage;
    this.#l1 = l1;
    this.#geometry = geometry;
    // The cache takes memory for all that it may hold: no more than there are tables.
    const tables = Math.min(this.entries, Math.floor(CACHE_BYTES / geometry.clusterSize));
    this.#cache = new LRUCache({ max: Math.max(4, tables) });
  }

  tableOffset(l1Index: number): number {
    const at = l1Index * 8;
    const offset = entryOffset(this.#l1.readUInt32BE(at), this.#l1.readUInt32BE(at + 4));
    return offset === 0 ? 0 : this.#checked(offset, l1Index);
  }

  /** Reserved bits of an L1 entry are ignored, as QEMU does. */
  #checked(offset: number, l1Index: number): number {
    const { clusterSize } = this.#geometry;
    const where = `(L1 index: 0x${l1Index.toString(16)})`;
    const name = `L2 table offset 0x${offset.toString(16)}`;
    if (offset % clusterSize !== 0) throw corrupt(`${name} unaligned ${where}`, this.#storage.name, offset);
    if (offset + clusterSize > this.#storage.size) {
      throw corrupt(`${name} lies past the end of the file ${where}`, this.#storage.name, offset);
    }
    return offset;
  }

  peek(offset: number): Buffer | undefined {
    return this.#cache.get(offset);
  }

  async load(offsets: readonly number[]): Promise<Buffer[]> {
    const missing = [...new Set(offsets.filter((offset) => !this.#cache.has(offset)))].sort((a, b) => a - b);
    const read = new Map<number, Buffer>();
    // One after the other: they are few and large, and callers load from several places at once.
    for (const run of this.#runs(missing)) await this.#readRun(run, read);
    if (traceRead.enabled) traceRead.emit({ file: this.#storage.name, asked: offsets.length, read: missing.length });
    const tables: Buffer[] = [];
    for (const offset of offsets)
      tables.push(read.get(offset) ?? this.#cache.get(offset) ?? (await this.#reread(offset)));
    return tables;
  }

  /** A table that went out of the cache while its neighbours were read. */
  async #reread(offset: number): Promise<Buffer> {
    const read = new Map<number, Buffer>();
    await this.#readRun([offset], read);
    return read.get(offset) as Buffer;
  }

  #runs(offsets: readonly number[]): number[][] {
    const runs: number[][] = [];
    for (const offset of offsets) {
      const run = runs[runs.length - 1];
      const end = run === undefined ? 0 : run[run.length - 1] + this.#geometry.clusterSize;
      const fits = run !== undefined && offset + this.#geometry.clusterSize - run[0] <= MAX_READ;
      if (fits && offset - end <= READ_GAP) run.push(offset);
      else runs.push([offset]);
    }
    return runs;
  }

  async #readRun(run: readonly number[], into: Map<number, Buffer>): Promise<void> {
    const { clusterSize } = this.#geometry;
    const [first] = run;
    const bytes = Buffer.allocUnsafeSlow(run[run.length - 1] + clusterSize - first);
    await this.#storage.read(first, bytes);
    for (const offset of run) {
      // A copy, so that one table in the cache doesn't keep all that was read with it.
      const table = bytes.subarray(offset - first, offset - first + clusterSize);
      const own = run.length === 1 ? table : Buffer.from(table);
      into.set(offset, own);
      this.#cache.set(offset, own);
    }
  }
}
