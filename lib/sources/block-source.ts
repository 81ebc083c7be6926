import type { Extent } from '../core/extent.ts';
import { tracePoint } from '../core/trace.ts';
import type { Storage } from '../storage/storage.ts';
import { Block, type BlockTables, type BlockView } from './block-table.ts';
import { inContext } from './context.ts';
import type { ClusterCipher } from './encryption/cluster-cipher.ts';
import { withHoles } from './holes.ts';
import { ExtentCollector, ReadPlan } from './plans.ts';
import { Run, RunBuilder, type RunKind, type RunSink } from './runs.ts';
import type { BackingReference, LayerInfo, Source } from './source.ts';
import { Unpacker } from './unpacker.ts';

export interface BlockSourceOptions {
  /** Driver name. */
  format: string;
  storage: Storage;
  /** Where the blocks lie; default `storage`. */
  data?: Storage;
  /** For messages; default the storage's name. */
  name?: string;
  /** Guest size in bytes; a function where a target that shares the source may change it. */
  size: number | (() => number);
  /** Guest bytes of a block. */
  blockSize: number;
  tables: BlockTables;
  backing?: BackingReference | null;
  describe(): LayerInfo | Promise<LayerInfo>;
  /** Decompresses a block into `size` bytes. Needed where `tables` tell of packed blocks. */
  unpack?(packed: Buffer, size: number): Promise<Buffer>;
  /** Somebody writes to the image while this reads: decompressed blocks are then not kept. */
  writable?: boolean;
  /** `map` tells holes of the file, inside blocks, as zeros. */
  showHoles?: boolean;
  /** See Source.opaque. */
  opaque?: boolean;
  /** The file may end within its last block, the rest of which reads as zeros. */
  shortLastBlock?: boolean;
  /** Blocks that are not packed are encrypted. */
  cipher?: ClusterCipher | null;
  /** Closes what the source opened itself. */
  close?(): Promise<void>;
}

/** Blocks walked before a sink is asked whether it is full. */
const STRETCH_BLOCKS = 1024;
/** One answer of `map` looks at no more blocks than this. */
const MAX_BLOCKS = 4 * 1024 * 1024;

const traceMap = tracePoint('blocks_map');

/**
 * One layer of guest bytes in blocks of one size, which a table maps to places in a file: what most formats
 * are. A format brings its tables (BlockTables) and its description.
 */
export class BlockSource implements Source {
  readonly format: string;
  readonly name: string;
  readonly storage: Storage;
  readonly backing: BackingReference | null;
  readonly granularity: number;
  readonly opaque: boolean;
  readonly #options: BlockSourceOptions;
  readonly #data: Storage;
  readonly #unpacker: Unpacker | null;

  constructor(options: BlockSourceOptions) {
    const { storage, data = storage, format, blockSize, unpack, writable = false } = options;
    this.#options = options;
    this.#data = data;
    this.format = format;
    this.name = options.name ?? storage.name;
    this.storage = storage;
    this.backing = options.backing ?? null;
    this.granularity = blockSize;
    this.opaque = options.opaque ?? false;
    this.#unpacker =
      unpack === undefined ? null : new Unpacker({ storage: data, format, unpack, blockSize, keep: !writable });
  }

  get size(): number {
    const { size } = this.#options;
    return typeof size === 'number' ? size : size();
  }

  /** What says where the blocks lie. */
  get tables(): BlockTables {
    return this.#options.tables;
  }

  async map(offset: number, length: number): Promise<Extent[]> {
    const collector = new ExtentCollector(this, this.#options.cipher ? null : this.#data);
    const end = await this.#walk(offset, offset + length, collector);
    if (this.#options.showHoles === true) collector.extents = await withHoles(collector.extents);
    if (traceMap.enabled) traceMap.emit({ file: this.name, offset, end, extents: collector.extents.length });
    return collector.extents;
  }

  async read(offset: number, buffer: Buffer): Promise<void> {
    const plan = this.#plan();
    await this.#gather(plan, offset, buffer);
    await plan.execute(this.#unpacker);
  }

  async readMany(extents: readonly Extent[], buffers: readonly Buffer[]): Promise<void> {
    const plan = this.#plan();
    for (let index = 0; index < extents.length; index += 1) {
      const { offset, length } = extents[index];
      await this.#gather(plan, offset, buffers[index].subarray(0, length));
    }
    await plan.execute(this.#unpacker);
  }

  async describe(): Promise<LayerInfo> {
    return this.#options.describe();
  }

  async close(): Promise<void> {
    await this.#options.close?.();
  }

  #plan(): ReadPlan {
    const { shortLastBlock, cipher } = this.#options;
    return new ReadPlan(this, this.#data, this.granularity, { padEnd: shortLastBlock, cipher });
  }

  async #gather(plan: ReadPlan, offset: number, buffer: Buffer): Promise<void> {
    plan.aim(offset, buffer);
    const end = offset + buffer.length;
    for (let at = offset; at < end; ) at = await this.#walk(at, end, plan);
  }

  /** Reports runs of [start, end), or of a prefix of it; returns where it stopped. */
  async #walk(start: number, end: number, sink: RunSink): Promise<number> {
    const blockSize = this.granularity;
    const { tables } = this.#options;
    const stop = Math.min(Math.ceil(end / blockSize), Math.floor(start / blockSize) + MAX_BLOCKS);
    try {
      let block = Math.floor(start / blockSize);
      const runs = new RunBuilder(sink, start, Math.min(end, stop * blockSize));
      while (block < stop && sink.full !== true) {
        const found = tables.view(block, stop - block);
        const view = found instanceof Promise ? await found : found;
        block = walkView(view, { block, stop, blockSize, runs, start, end });
      }
      runs.finish();
      return Math.min(end, block * blockSize);
    } catch (error) {
      throw inContext(error, this.name, this.format);
    }
  }
}

interface Walk {
  block: number;
  stop: number;
  blockSize: number;
  runs: RunBuilder;
  start: number;
  end: number;
}

/** Reports the view's blocks from `block` on; returns the first that was not reported. */
function walkView(view: BlockView, walk: Walk): number {
  const { blockSize, runs } = walk;
  const stop = Math.min(walk.stop, view.first + view.count);
  if (view.uniform !== undefined) {
    const { uniform } = view;
    const host = uniform < 0 ? -1 : uniform + (walk.block - view.first) * blockSize;
    runs.add(kindOf(uniform), walk.block * blockSize, (stop - walk.block) * blockSize, host);
    return stop;
  }
  let { block } = walk;
  while (block < stop) {
    const pause = Math.min(stop, block + STRETCH_BLOCKS);
    for (; block < pause; block += 1) {
      const entry = view.entry(block);
      if (entry > Block.packed) runs.add(kindOf(entry), block * blockSize, blockSize, Math.max(-1, entry));
      else addSpecial(view, walk, block, entry);
    }
    if (runs.sink.full === true) return block;
  }
  return stop;
}

function kindOf(entry: number): RunKind {
  if (entry >= 0) return Run.data;
  return entry === Block.zero ? Run.zero : Run.unallocated;
}

function addSpecial(view: BlockView, { runs, blockSize, start, end }: Walk, block: number, entry: number): void {
  const guest = block * blockSize;
  if (entry === Block.packed && runs.sink.compressed === undefined) {
    runs.add(Run.compressed, guest, blockSize, -1);
    return;
  }
  runs.finish();
  if (entry === Block.packed) {
    const { host, packedLength } = view.packed?.(block) ?? { host: 0, packedLength: 0 };
    runs.sink.compressed?.(guest, host, packedLength);
  } else {
    view.mixed?.(block, Math.max(start, guest), Math.min(end, guest + blockSize), runs.sink);
  }
  runs.skip(guest + blockSize);
}
