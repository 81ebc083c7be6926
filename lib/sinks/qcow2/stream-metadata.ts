import { ImageError } from '../../core/errors.ts';
import { zeroBlock } from '../../core/pool.ts';
import {
  ALL_SUBCLUSTERS,
  encodeEntry,
  encodeSubclusters,
  type Qcow2Geometry,
  writeRefcount,
} from '../../layouts/qcow2/index.ts';
import type { Storage } from '../../storage/storage.ts';
import type { ClusterRun } from './cluster-runs.ts';
import type { StreamLayout } from './stream-layout.ts';

const BUFFER_BYTES = 1024 * 1024;

/** Gathers what is appended into large writes. */
export class Appender {
  readonly #storage: Storage;
  readonly #buffer = Buffer.allocUnsafeSlow(BUFFER_BYTES);
  #filled = 0;
  #flushed = 0;

  constructor(storage: Storage) {
    this.#storage = storage;
  }

  /** Where the next byte comes to lie. */
  get position(): number {
    return this.#flushed + this.#filled;
  }

  async append(bytes: Buffer): Promise<void> {
    // Large pieces need no copy.
    if (bytes.length >= BUFFER_BYTES / 2) {
      await this.flush();
      await this.#storage.write(this.#flushed, bytes);
      this.#flushed += bytes.length;
      return;
    }
    if (this.#filled + bytes.length > BUFFER_BYTES) await this.flush();
    this.#filled += bytes.copy(this.#buffer, this.#filled);
  }

  async appendZeros(length: number): Promise<void> {
    const zeros = zeroBlock();
    for (let left = length; left > 0; left -= zeros.length) {
      await this.append(left < zeros.length ? zeros.subarray(0, left) : zeros);
    }
  }

  async padTo(position: number): Promise<void> {
    await this.appendZeros(position - this.position);
  }

  async flush(): Promise<void> {
    if (this.#filled === 0) return;
    await this.#storage.write(this.#flushed, this.#buffer.subarray(0, this.#filled));
    this.#flushed += this.#filled;
    this.#filled = 0;
  }
}

/** Every cluster of the file is referenced exactly once. */
export async function appendRefcountBlocks(out: Appender, layout: StreamLayout, geometry: Qcow2Geometry) {
  const { clusterSize, refcountBits, refcountsPerBlock } = geometry;
  const full = Buffer.alloc(clusterSize);
  for (let index = 0; index < refcountsPerBlock; index += 1) writeRefcount(full, index, refcountBits, 1);
  const whole = Math.floor(layout.totalClusters / refcountsPerBlock);
  for (let block = 0; block < whole; block += 1) await out.append(full);
  const rest = layout.totalClusters % refcountsPerBlock;
  if (rest === 0) return;
  const last = Buffer.alloc(clusterSize);
  for (let index = 0; index < rest; index += 1) writeRefcount(last, index, refcountBits, 1);
  await out.append(last);
}

export async function appendRefcountTable(out: Appender, layout: StreamLayout, geometry: Qcow2Geometry) {
  const table = Buffer.alloc(layout.refcountTableClusters * geometry.clusterSize);
  for (let block = 0; block < layout.refcountBlocks; block += 1) {
    encodeEntry(table, block * 8, layout.refcountBlocksOffset + block * geometry.clusterSize);
  }
  await out.append(table);
}

export async function appendL1Table(out: Appender, layout: StreamLayout, geometry: Qcow2Geometry): Promise<void> {
  const table = Buffer.alloc(layout.l2Offset - layout.l1Offset);
  let offset = layout.l2Offset;
  for (let index = 0; index < layout.l1Entries; index += 1) {
    if (layout.l2Present[index] === 0) continue;
    encodeEntry(table, index * 8, offset, { copied: true });
    offset += geometry.clusterSize;
  }
  await out.append(table);
}

/** Writes the L2 tables as the plan is walked once more; one table at a time is in memory. */
export async function appendL2Tables(
  out: Appender,
  runs: AsyncIterable<ClusterRun[]>,
  layout: StreamLayout,
  geometry: Qcow2Geometry,
): Promise<void> {
  const writer = new L2Writer(out, layout, geometry);
  for await (const list of runs) {
    for (const run of list) if (run.kind !== 'none') await writer.add(run);
  }
  await writer.finish();
}

class L2Writer {
  readonly #out: Appender;
  readonly #layout: StreamLayout;
  readonly #geometry: Qcow2Geometry;
  readonly #table: Buffer;
  #index = -1;
  #host: number;

  constructor(out: Appender, layout: StreamLayout, geometry: Qcow2Geometry) {
    this.#out = out;
    this.#layout = layout;
    this.#geometry = geometry;
    this.#table = Buffer.alloc(geometry.clusterSize);
    this.#host = layout.dataOffset;
  }

  async add({ first, count, kind }: ClusterRun): Promise<void> {
    const { l2Entries } = this.#geometry;
    for (let cluster = first; cluster < first + count; ) {
      const index = Math.floor(cluster / l2Entries);
      if (index !== this.#index) await this.#next(index);
      const end = Math.min(first + count, (index + 1) * l2Entries);
      for (; cluster < end; cluster += 1) this.#set(cluster % l2Entries, kind === 'data');
    }
  }

  async finish(): Promise<void> {
    await this.#next(-1);
    const { dataOffset, refcountTableOffset } = this.#layout;
    if (this.#out.position !== dataOffset || this.#host !== refcountTableOffset) throw planChanged();
  }

  #set(entry: number, isData: boolean): void {
    const { clusterSize, extendedL2, l2EntrySize } = this.#geometry;
    const at = entry * l2EntrySize;
    if (isData) {
      encodeEntry(this.#table, at, this.#host, { copied: true });
      this.#host += clusterSize;
    } else {
      encodeEntry(this.#table, at, 0, { zero: !extendedL2 });
    }
    if (extendedL2) {
      const whole = ALL_SUBCLUSTERS;
      encodeSubclusters(this.#table, at, { allocated: isData ? whole : 0, zero: isData ? 0 : whole });
    }
  }

  async #next(index: number): Promise<void> {
    if (this.#index >= 0) await this.#out.append(this.#table);
    if (index >= 0 && (index < this.#index || this.#layout.l2Present[index] !== 1)) throw planChanged();
    this.#table.fill(0);
    this.#index = index;
  }
}

/** The input said something else the second time: it is being written to. */
export function planChanged(): ImageError {
  return new ImageError('io', 'The input changed while it was read', { format: 'qcow2', operation: 'write' });
}
