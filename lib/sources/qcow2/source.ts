import { inflateRaw, zstdDecompress } from '../../core/codecs.ts';
import { ImageError } from '../../core/errors.ts';
import type { Extent } from '../../core/extent.ts';
import { tracePoint } from '../../core/trace.ts';
import {
  decodeBackingFormat,
  type HeaderTail,
  type Qcow2Geometry,
  type Qcow2Header,
} from '../../layouts/qcow2/index.ts';
import type { Storage } from '../../storage/storage.ts';
import type { ClusterCipher } from '../encryption/cluster-cipher.ts';
import { withHoles } from '../holes.ts';
import { ExtentCollector, ReadPlan } from '../plans.ts';
import { Run, type RunSink } from '../runs.ts';
import type { BackingReference, BitmapReader, LayerInfo, SnapshotSelector, Source } from '../source.ts';
import { Unpacker } from '../unpacker.ts';
import { Qcow2BitmapReader } from './bitmaps.ts';
import { type ClusterRules, walkTable } from './clusters.ts';
import { inContext } from './context.ts';
import { describeQcow2 } from './describe.ts';
import { snapshotSource } from './snapshots.ts';
import type { TableProvider } from './tables.ts';

export interface Qcow2SourceOptions {
  storage: Storage;
  /** Where guest data lie: the external data file, or `storage`. Null where it was not opened (`metadataOnly`). */
  data: Storage | null;
  header: Qcow2Header;
  tail: HeaderTail;
  geometry: Qcow2Geometry;
  /** Null where they were not read (`metadataOnly`). */
  tables: TableProvider | null;
  /** Somebody writes to the image while this reads. */
  writable: boolean;
  /** Clusters that are not compressed are encrypted with it. Null: they are plain, or there was no need for it. */
  cipher: ClusterCipher | null;
  /** What is closed with the source, as nobody else does: the data file, the cipher. */
  owned: readonly { close(): Promise<void> }[];
  /** The file has holes where clusters are allocated (preallocated metadata): map() then looks at them too. */
  sparse?: boolean;
  /** Guest size; the header's, as it is at each moment, unless given (a snapshot's). */
  size?: number;
}

/** One step of a walk looks at no more tables than this. */
const MAX_TABLE_BYTES = 64 * 1024 * 1024;
/** L2 tables that are loaded at once. */
const BATCH_BYTES = 2 * 1024 * 1024;
/** Clusters walked before a sink is asked whether it is full; one cluster may have 32 subclusters. */
const STRETCH_CLUSTERS = 1024;

const traceMap = tracePoint('qcow2_map');

/** One qcow2 image, or a snapshot in it, read only: docs/interop/qcow2.txt. */
export class Qcow2Source implements Source {
  readonly format = 'qcow2';
  readonly name: string;
  readonly storage: Storage;
  readonly backing: BackingReference | null;
  readonly granularity: number;
  readonly bitmaps: BitmapReader;
  readonly #options: Qcow2SourceOptions;
  readonly #rules: ClusterRules;
  readonly #unpacker: Unpacker;

  constructor(options: Qcow2SourceOptions) {
    const { storage, header, geometry } = options;
    this.#options = options;
    this.name = storage.name;
    this.storage = storage;
    this.granularity = geometry.clusterSize;
    this.backing = backingReference(options);
    this.bitmaps = new Qcow2BitmapReader(options);
    this.#rules = {
      file: storage.name,
      version: header.version,
      geometry,
      external: options.data !== null && options.data !== storage,
    };
    this.#unpacker = new Unpacker({
      storage,
      format: this.format,
      unpack: header.compressionType === 'zstd' ? zstdDecompress : inflateRaw,
      blockSize: geometry.clusterSize,
      keep: !options.writable,
    });
  }

  get size(): number {
    return this.#options.size ?? this.#options.header.size;
  }

  async map(offset: number, length: number): Promise<Extent[]> {
    const { cipher, data } = this.#options;
    const collector = new ExtentCollector(this, cipher === null ? data : null);
    const end = await this.#walk(offset, offset + length, collector);
    if (this.#options.sparse === true) collector.extents = await withHoles(collector.extents);
    if (traceMap.enabled) traceMap.emit({ file: this.name, offset, end, extents: collector.extents.length });
    return collector.extents;
  }

  async read(offset: number, buffer: Buffer): Promise<void> {
    const reader = this.#readPlan();
    reader.aim(offset, buffer);
    const end = offset + buffer.length;
    for (let at = offset; at < end; ) at = await this.#walk(at, end, reader);
    await reader.execute(this.#unpacker);
  }

  async readMany(extents: readonly Extent[], buffers: readonly Buffer[]): Promise<void> {
    const reader = this.#readPlan();
    for (let index = 0; index < extents.length; index += 1) {
      const { offset, length } = extents[index];
      reader.aim(offset, buffers[index].subarray(0, length));
      for (let at = offset; at < offset + length; ) at = await this.#walk(at, offset + length, reader);
    }
    await reader.execute(this.#unpacker);
  }

  describe(): Promise<LayerInfo> {
    return describeQcow2(this.#options).catch((error) => {
      throw inContext(error, this.name);
    });
  }

  /** The disk as the snapshot has it, over the same backing file. */
  async openSnapshot(selector: SnapshotSelector): Promise<Source> {
    this.#refuseUnreadable();
    try {
      const options = await snapshotSource(this.#options, selector);
      return new Qcow2Source(options);
    } catch (error) {
      throw inContext(error, this.name);
    }
  }

  async close(): Promise<void> {
    for (const each of this.#options.owned) await each.close();
  }

  #readPlan(): ReadPlan {
    const { cipher, data } = this.#options;
    return new ReadPlan(this, data as Storage, this.granularity, { cipher });
  }

  /** Reports runs of [start, end), or of a prefix of it; returns where it stopped. */
  async #walk(start: number, end: number, sink: RunSink): Promise<number> {
    const tables = this.#refuseUnreadable();
    const { l2Coverage, clusterSize } = this.#options.geometry;
    const most = Math.max(1, Math.floor(BATCH_BYTES / clusterSize));
    let seen = 0;
    try {
      for (let at = start; at < end; ) {
        const batch = nextTables(tables, { start: at, end, l2Coverage, most });
        const known = batch.offsets.length === 1 ? tables.peek(batch.offsets[0]) : undefined;
        const loaded = known !== undefined ? [known] : await tables.load(batch.offsets);
        at = this.#walkBatch(at, batch, loaded, sink);
        seen += loaded.length * clusterSize;
        if (at < end && (sink.full === true || seen >= MAX_TABLE_BYTES)) return at;
      }
      return end;
    } catch (error) {
      throw inContext(error, this.name);
    }
  }

  #walkBatch(start: number, batch: TableBatch, loaded: readonly Buffer[], sink: RunSink): number {
    const { l2Coverage, clusterSize } = this.#options.geometry;
    const stretch = STRETCH_CLUSTERS * clusterSize;
    let at = start;
    for (let index = 0; index < loaded.length; index += 1) {
      const base = batch.indexes[index] * l2Coverage;
      if (base > at) sink.run(Run.unallocated, at, base - at, -1);
      at = Math.max(at, base);
      const tableEnd = Math.min(batch.end, base + l2Coverage);
      while (at < tableEnd) {
        const end = Math.min(tableEnd, at + stretch);
        walkTable({ table: loaded[index], tableOffset: batch.offsets[index], base, start: at, end }, this.#rules, sink);
        at = end;
        if (sink.full === true) return at;
      }
    }
    if (at < batch.end) sink.run(Run.unallocated, at, batch.end - at, -1);
    return batch.end;
  }

  #refuseUnreadable(): TableProvider {
    const { tables, data } = this.#options;
    if (tables === null || data === null) {
      throw new ImageError('invalid', 'The image was opened for its description only', { file: this.name });
    }
    return tables;
  }
}

function backingReference({ tail }: Qcow2SourceOptions): BackingReference | null {
  if (tail.backingFile === null) return null;
  return { filename: tail.backingFile, format: decodeBackingFormat(tail.extensions) };
}

/** L2 tables to be walked together; guest bytes between them are unallocated. */
interface TableBatch {
  /** L1 indexes and host offsets of the tables, ascending by index. */
  indexes: number[];
  offsets: number[];
  /** Guest offset up to which all is known once the tables are. */
  end: number;
}

/** Collects the next few tables of a range; empty L1 entries cost a look at eight bytes each. */
function nextTables(
  tables: TableProvider,
  { start, end, l2Coverage, most }: { start: number; end: number; l2Coverage: number; most: number },
): TableBatch {
  const indexes: number[] = [];
  const offsets: number[] = [];
  const stop = Math.min(tables.entries, Math.ceil(end / l2Coverage));
  for (let index = Math.floor(start / l2Coverage); index < stop; index += 1) {
    const offset = tables.tableOffset(index);
    if (offset === 0) continue;
    indexes.push(index);
    offsets.push(offset);
    if (indexes.length === most) return { indexes, offsets, end: Math.min(end, (index + 1) * l2Coverage) };
  }
  return { indexes, offsets, end };
}
