import { type Extent, extent, pushExtent } from '../../core/extent.ts';
import { decodeBackingFormat } from '../../layouts/qcow2/index.ts';
import type { BackingReference, LayerInfo, Source } from '../../sources/source.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';
import { type ClusterState, readCluster } from './cluster.ts';
import { readOld } from './cow.ts';
import type { Qcow2Image } from './image.ts';

/**
 * The layer that a target is writing, for reading. It looks into the target's own tables in memory, since
 * what has been written is on the disk only as data: entries follow with the next commit.
 */
export class TargetSource implements Source {
  readonly format = 'qcow2';
  readonly name: string;
  readonly storage: Storage;
  readonly granularity: number;
  readonly backing: BackingReference | null;
  readonly #image: Qcow2Image;

  constructor(image: Qcow2Image) {
    this.#image = image;
    this.name = image.storage.name;
    this.storage = image.storage;
    this.granularity = image.geometry.clusterSize;
    const { backingFile, extensions } = image.tail;
    this.backing = backingFile === null ? null : { filename: backingFile, format: decodeBackingFormat(extensions) };
  }

  get size(): number {
    return this.#image.header.size;
  }

  /** Extents up to the end of the L2 table under `offset`. */
  async map(offset: number, length: number): Promise<Extent[]> {
    const { l2Coverage, clusterSize, subclusterSize } = this.#image.geometry;
    const l1Index = Math.floor(offset / l2Coverage);
    const end = Math.min(offset + length, (l1Index + 1) * l2Coverage);
    const extents: Extent[] = [];
    await this.#withTable(l1Index, (table) => {
      if (table === null) {
        extents.push(this.#bare(offset, end - offset, 'unallocated'));
        return;
      }
      for (let at = offset; at < end; ) {
        const state = this.#state(table, at);
        const unit = state.compressedLength > 0 ? clusterSize : subclusterSize;
        const stop = Math.min(end, Math.floor(at / unit) * unit + unit);
        pushExtent(extents, this.#extentOf(state, at, stop - at));
        at = stop;
      }
    });
    return extents;
  }

  #bare(offset: number, length: number, kind: Extent['kind']): Extent {
    const bare = extent(offset, length, kind);
    bare.layer = this;
    return bare;
  }

  #extentOf(state: ClusterState, offset: number, length: number): Extent {
    const { clusterSize, subclusterSize } = this.#image.geometry;
    const within = offset % clusterSize;
    const bit = 2 ** Math.floor(within / subclusterSize);
    const isData = state.compressedLength > 0 || (state.allocated & bit) !== 0;
    const kind = isData ? 'data' : (state.zero & bit) !== 0 ? 'zero' : 'unallocated';
    const result = this.#bare(offset, length, kind);
    result.compressed = state.compressedLength > 0;
    if (state.host >= 0 && !result.compressed && kind !== 'unallocated') {
      result.host = this.#image.data;
      result.hostOffset = state.host + within;
    }
    return result;
  }

  #state(table: Buffer, offset: number): ClusterState {
    const { clusterSize, l2Entries } = this.#image.geometry;
    return readCluster(this.#image, table, Math.floor(offset / clusterSize) % l2Entries);
  }

  async #withTable<T>(l1Index: number, look: (table: Buffer | null) => T): Promise<T> {
    return this.#image.metadata.run(async () => {
      const page = await this.#image.table(l1Index);
      try {
        return look(page?.bytes ?? null);
      } finally {
        if (page !== null) page.pins -= 1;
      }
    });
  }

  async read(offset: number, buffer: Buffer): Promise<void> {
    for (let at = 0; at < buffer.length; ) {
      for (const part of await this.map(offset + at, buffer.length - at)) {
        const target = buffer.subarray(at, at + part.length);
        if (part.kind !== 'data') target.fill(0);
        else if (part.hostOffset >= 0) await readPadded(this.#image.data, part.hostOffset, target);
        else await this.#readCompressed(part, target);
        at += part.length;
      }
    }
  }

  async #readCompressed(part: Extent, target: Buffer): Promise<void> {
    const { clusterSize, l2Coverage } = this.#image.geometry;
    for (let at = 0; at < target.length; ) {
      const offset = part.offset + at;
      const length = Math.min(target.length - at, clusterSize - (offset % clusterSize));
      const state = await this.#withTable(Math.floor(offset / l2Coverage), (table) =>
        table === null ? null : this.#state(table, offset),
      );
      const bytes = state === null ? null : await readOld(this.#image, state, offset, length);
      if (bytes === null) target.fill(0, at, at + length);
      else bytes.copy(target, at);
      at += length;
    }
  }

  async describe(): Promise<LayerInfo> {
    return { clusterSize: this.granularity };
  }

  async close(): Promise<void> {}
}
