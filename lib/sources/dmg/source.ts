import { ImageError } from '../../core/errors.ts';
import { type Extent, extent, pushExtent } from '../../core/extent.ts';
import { tracePoint } from '../../core/trace.ts';
import { allSettled } from '../../core/turns.ts';
import { type ChunkTable, ChunkType, chunkAt, isZeroType } from '../../layouts/dmg/index.ts';
import type { Storage } from '../../storage/storage.ts';
import { inContext } from '../context.ts';
import type { LayerInfo, Source } from '../source.ts';
import { PackedChunks } from './chunks.ts';

/** An answer of map() ends with that many extents. */
const MAX_EXTENTS = 32 * 1024;
const SECTOR = 512;

const traceMap = tracePoint('dmg_map');

/** Part of a chunk; index -1 is where no chunk is. */
type Visit = (index: number, offset: number, length: number) => void;

/** A UDIF image: chunks of any length, stored in several ways. */
export class DmgSource implements Source {
  readonly format = 'dmg';
  readonly backing = null;
  /** Chunks differ in length, so there is no such unit. */
  readonly granularity = 1;
  readonly opaque = true;
  readonly name: string;
  readonly storage: Storage;
  readonly size: number;
  readonly #table: ChunkTable;
  readonly #packed: PackedChunks;

  constructor(storage: Storage, size: number, table: ChunkTable) {
    this.name = storage.name;
    this.storage = storage;
    this.size = size;
    this.#table = table;
    this.#packed = new PackedChunks(storage, table);
  }

  async map(offset: number, length: number): Promise<Extent[]> {
    const extents: Extent[] = [];
    const add: Visit = (index, start, bytes) => pushExtent(extents, this.#extent(index, start, bytes));
    visitChunks(this.#table, offset, offset + length, add, () => extents.length >= MAX_EXTENTS);
    if (traceMap.enabled) traceMap.emit({ file: this.name, offset, length, extents: extents.length });
    return extents;
  }

  async read(offset: number, buffer: Buffer): Promise<void> {
    const tasks: Promise<void>[] = [];
    this.#gather(offset, buffer, tasks);
    await this.#settle(tasks);
  }

  async readMany(extents: readonly Extent[], buffers: readonly Buffer[]): Promise<void> {
    const tasks: Promise<void>[] = [];
    for (const [index, { offset, length }] of extents.entries()) {
      this.#gather(offset, buffers[index].subarray(0, length), tasks);
    }
    await this.#settle(tasks);
  }

  async describe(): Promise<LayerInfo> {
    return { dirty: null };
  }

  async close(): Promise<void> {}

  #extent(index: number, offset: number, length: number): Extent {
    const { types, starts, hosts } = this.#table;
    // Where no chunk is, reading fails; saying that there are zeros would lose data in silence.
    const type = index < 0 ? null : types[index];
    const each = extent(offset, length, type !== null && isZeroType(type) ? 'zero' : 'data');
    each.layer = this;
    if (type === ChunkType.raw) {
      each.host = this.storage;
      each.hostOffset = hosts[index] + (offset - starts[index]);
    } else {
      each.compressed = each.kind === 'data';
    }
    return each;
  }

  #gather(offset: number, buffer: Buffer, tasks: Promise<void>[]): void {
    visitChunks(this.#table, offset, offset + buffer.length, (index, start, length) => {
      tasks.push(this.#readPiece(index, start, buffer.subarray(start - offset, start - offset + length)));
    });
  }

  async #readPiece(index: number, offset: number, target: Buffer): Promise<void> {
    if (index < 0) throw new ImageError('corrupt', `No chunk holds sector ${Math.floor(offset / SECTOR)}`);
    const { types, starts, hosts } = this.#table;
    const skip = offset - starts[index];
    if (isZeroType(types[index])) target.fill(0);
    else if (types[index] === ChunkType.raw) await this.storage.read(hosts[index] + skip, target);
    else await this.#packed.read(index, skip, target);
  }

  async #settle(tasks: readonly Promise<void>[]): Promise<void> {
    try {
      await allSettled(tasks);
    } catch (error) {
      throw inContext(error, this.name, this.format);
    }
  }
}

/** Visits the chunks of guest bytes [start, end), and the gaps between them, in order, until `full`. */
function visitChunks(table: ChunkTable, start: number, end: number, visit: Visit, full = () => false): void {
  let index = chunkAt(table, start);
  for (let at = start; at < end && !full(); ) {
    const stop = index < 0 ? at : table.starts[index] + table.lengths[index];
    if (at < stop) {
      const length = Math.min(end, stop) - at;
      visit(index, at, length);
      at += length;
      continue;
    }
    index += 1;
    const next = index < table.count ? Math.min(end, table.starts[index]) : end;
    if (next > at) visit(-1, at, next - at);
    at = Math.max(at, next);
  }
}
