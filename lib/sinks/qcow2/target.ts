import { alignDown, alignUp } from '../../core/binary.ts';
import { ImageError } from '../../core/errors.ts';
import { allSettled } from '../../core/turns.ts';
import { inContext } from '../../sources/qcow2/context.ts';
import type { BackingReference, Source } from '../../sources/source.ts';
import { RangeLocks } from '../locks.ts';
import { PackedWriter } from '../packed-writer.ts';
import type { BitmapEditor, ClusterCompressor, GuestWrite, Target } from '../target.ts';
import { type GuestRange, writeZeros } from '../zeros.ts';
import { setBacking } from './backing.ts';
import { Qcow2BitmapEditor } from './bitmaps/index.ts';
import { abandon, completeAndClose } from './close.ts';
import { clusterCompressor, writeCompressedCluster } from './compressed.ts';
import { makeEmpty } from './empty.ts';
import type { Qcow2Image } from './image.ts';
import { checkResize, type Growth, preallocateGrowth, reach, reclaimTail, resize } from './resize.ts';
import { type Segment, segmentGroups } from './segments.ts';
import type { Preallocation } from './settings.ts';
import { writeSegments } from './write.ts';
import { type Clearing, clearSegment } from './zero.ts';

export interface Qcow2TargetOptions {
  /** Makes the reading half, which sees what this target writes. */
  source: Source;
  /** What was never written reads as zeros. */
  readsAsZero: boolean;
}

/** A qcow2 image open for writing: the one write path of new and of existing images. */
export class Qcow2Target implements Target {
  readonly format = 'qcow2';
  readonly name: string;
  readonly granularity: number;
  readonly readsAsZero: boolean;
  readonly sequential = false;
  readonly source: Source;
  readonly compressor: ClusterCompressor | undefined;
  readonly bitmaps: BitmapEditor;
  readonly #image: Qcow2Image;
  readonly #locks = new RangeLocks();
  readonly #packed: PackedWriter;
  #closing: Promise<void> | null = null;
  #changed = false;
  #bitmapsEdited = false;

  constructor(image: Qcow2Image, { source, readsAsZero }: Qcow2TargetOptions) {
    this.#image = image;
    this.name = image.storage.name;
    this.granularity = image.geometry.clusterSize;
    this.readsAsZero = readsAsZero;
    this.source = source;
    this.compressor = clusterCompressor(image);
    this.bitmaps = new Qcow2BitmapEditor(image, () => this.#beginBitmaps());
    this.#packed = new PackedWriter(image.storage, image.geometry.clusterSize);
  }

  get size(): number {
    return this.#image.header.size;
  }

  write(offset: number, buffer: Buffer): Promise<void> {
    return this.#change('write', { offset, length: buffer.length }, () => this.#write(offset, buffer));
  }

  async #write(offset: number, buffer: Buffer): Promise<void> {
    await this.#eachTable({ start: offset, end: offset + buffer.length }, ({ l1Index, start, end }) =>
      writeSegments(this.#image, [{ l1Index, start, end, bytes: buffer.subarray(start - offset, end - offset) }]),
    );
  }

  writeMany(writes: readonly GuestWrite[]): Promise<void> {
    return this.#inContext(async () => {
      for (const { offset, buffer } of writes) await this.#begin('write', { offset, length: buffer.length });
      await allSettled(segmentGroups(writes, this.#image.geometry).map((segments) => this.#writeGroup(segments)));
    });
  }

  #writeGroup(segments: readonly Segment[]): Promise<void> {
    const [{ start }, { end }] = [segments[0], segments[segments.length - 1]];
    return this.#holding(start, end, () => writeSegments(this.#image, segments));
  }

  zero(offset: number, length: number, options: { unmap?: boolean } = {}): Promise<void> {
    return this.#change('zero', { offset, length }, async () => {
      const { data, external, header } = this.#image;
      // Whoever reads the data file as a raw image must find the zeros there.
      if (external) await data.zero(offset, Math.min(length, header.size - offset), options);
      await this.#clear(offset, length, options.unmap ? 'unmap' : 'zero');
    });
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#change('discard', { offset, length }, async () => {
      const { data, external, geometry } = this.#image;
      if (external) {
        const start = alignUp(offset, geometry.clusterSize);
        const end = alignDown(offset + length, geometry.clusterSize);
        if (start < end) await data.zero(start, end - start, { unmap: true });
      }
      await this.#clear(offset, length, 'discard');
    });
  }

  async #clear(offset: number, length: number, clearing: Clearing, diskEnd = this.size): Promise<void> {
    const left: GuestRange[] = [];
    await this.#eachTable({ start: offset, end: offset + length }, async ({ l1Index, start, end }) => {
      left.push(...(await clearSegment(this.#image, { l1Index, start, end, clearing, diskEnd })));
    });
    for (const range of left) await writeZeros(range, (at, zeros) => this.#write(at, zeros));
  }

  writeCompressed(offset: number, length: number, packed: Buffer): Promise<void> {
    return this.#change('write', { offset, length }, () => this.#writeCompressed(offset, length, packed));
  }

  async #writeCompressed(offset: number, length: number, packed: Buffer): Promise<void> {
    const image = this.#image;
    const { clusterSize } = image.geometry;
    if (image.external) throw this.#error('unsupported', 'Compressed clusters cannot lie in an external data file');
    if (image.cipher !== null) {
      throw this.#error('unsupported', 'Compression and encryption not supported at the same time');
    }
    if (offset % clusterSize !== 0 || length > clusterSize || packed.length >= clusterSize || packed.length === 0) {
      throw this.#error('invalid', 'A compressed write must cover one cluster and be smaller than it');
    }
    if (length < clusterSize && offset + length < this.size) {
      throw this.#error('invalid', 'A compressed write must cover one cluster');
    }
    const release = await this.#locks.acquire(offset / clusterSize, offset / clusterSize);
    try {
      await writeCompressedCluster(image, this.#packed, { offset, packed });
    } finally {
      release();
    }
  }

  truncate(size: number, { preallocation = 'off' }: { preallocation?: string } = {}): Promise<void> {
    return this.#inContext(async () => {
      checkResize(this.#image, size, preallocation);
      if (!this.#image.fresh) await this.#image.metadata.run(() => this.#image.bitmaps.checkResize(size));
      const growth = { from: this.size, to: size, preallocation: preallocation as Preallocation };
      await this.#change('truncate', { offset: 0, length: 0 }, () => this.#truncate(growth));
    });
  }

  async #truncate(growth: Growth): Promise<void> {
    const { from, to } = growth;
    const { metadata, fresh, external, data } = this.#image;
    if (to < from) await this.#clear(to, from - to, 'discard');
    await this.#locks.settle();
    if (to > from && !fresh) await this.#prepareGrowth(growth);
    await metadata.run(() => resize(this.#image, to));
    if (fresh || to >= from) return;
    if (external && !data.fixedSize) await data.truncate(to);
    await metadata.run(() => reclaimTail(this.#image));
  }

  /** All that the longer disk will show, before the header tells of it; what fails leaves the disk as it was. */
  async #prepareGrowth(growth: Growth): Promise<void> {
    const { from, to } = growth;
    const { metadata, backing, external, data } = this.#image;
    const hasOwnEnd = external && !data.fixedSize;
    await metadata.run(() => reach(this.#image, to));
    try {
      if (hasOwnEnd) await data.truncate(to);
      await preallocateGrowth(this.#image, growth);
      // What lay behind the old end, in its last cluster or in a longer backing file, must not show up.
      const end = Math.min(to, Math.max(alignUp(from, this.granularity), backing?.size ?? 0));
      if (end > from) await this.#clear(from, end - from, 'zero', to);
      await metadata.run(() => this.#image.commit());
    } catch (error) {
      await this.#undoGrowth(growth).catch(() => {});
      if (hasOwnEnd) await data.truncate(from).catch(() => {});
      throw error;
    }
  }

  async #undoGrowth({ from, to }: Growth): Promise<void> {
    await this.#clear(from, to - from, 'discard', to);
    await this.#image.metadata.run(() => reclaimTail(this.#image));
  }

  makeEmpty(): Promise<void> {
    return this.#change('empty', { offset: 0, length: 0 }, () => this.#alone(() => makeEmpty(this.#image)));
  }

  setBacking(backing: BackingReference | null): Promise<void> {
    return this.#inContext(async () => {
      if (this.#closing !== null) throw this.#error('io', 'The image is closed');
      await this.#alone(() => setBacking(this.#image, backing));
    });
  }

  /** Runs what concerns all clusters, while nobody else works on any. */
  async #alone(work: () => Promise<void>): Promise<void> {
    const release = await this.#locks.acquire(0, Number.MAX_SAFE_INTEGER);
    try {
      await this.#image.metadata.run(work);
    } finally {
      release();
    }
  }

  flush(): Promise<void> {
    const image = this.#image;
    return this.#inContext(() =>
      image.metadata.run(async () => {
        await image.commit();
        if (image.external) await image.data.flush();
        await image.storage.flush();
      }),
    );
  }

  close(): Promise<void> {
    this.#closing ??= this.#inContext(async () => {
      await this.#locks.settle();
      await completeAndClose({ image: this.#image, source: this.source }, this.#changed);
    });
    return this.#closing;
  }

  abort(): Promise<void> {
    this.#closing ??= this.#abort();
    return this.#closing;
  }

  async #abort(): Promise<void> {
    await this.#locks.settle();
    await abandon({ image: this.#image, source: this.source });
  }

  /** Runs an operation that changes the range, after what every change must be preceded by. */
  #change(operation: string, range: { offset: number; length: number }, work: () => Promise<void>): Promise<void> {
    return this.#inContext(async () => {
      await this.#begin(operation, range);
      await work();
    });
  }

  /** The layers beneath know tables and bytes; which image it is, is known here. */
  async #inContext(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      throw inContext(error, this.name);
    }
  }

  async #begin(operation: string, { offset, length }: { offset: number; length: number }): Promise<void> {
    if (this.#closing !== null) throw this.#error('io', `The image is closed`);
    if (offset < 0 || length < 0 || offset + length > this.size) {
      throw new ImageError('invalid', `Bytes ${offset} to ${offset + length} lie outside the disk`, {
        file: this.name,
        format: this.format,
        operation,
        offset,
      });
    }
    if (this.#bitmapsEdited) throw this.#error('invalid', 'Bitmaps are edited when all is written');
    this.#changed = true;
    if (this.#image.needsPreparation) await this.#image.prepareChange();
    this.#image.bitmaps.mark(offset, length);
  }

  #beginBitmaps(): void {
    if (this.#closing !== null) throw this.#error('io', 'The image is closed');
    this.#bitmapsEdited = true;
  }

  #error(kind: 'unsupported' | 'invalid' | 'io', message: string): ImageError {
    return new ImageError(kind, message, { file: this.name, format: this.format });
  }

  /** Calls `work` for the part of the range under each L2 table, holding the clusters that it touches. */
  async #eachTable(
    range: GuestRange,
    work: (part: { l1Index: number; start: number; end: number }) => Promise<void>,
  ): Promise<void> {
    const { l2Coverage } = this.#image.geometry;
    for (let start = range.start; start < range.end; ) {
      const l1Index = Math.floor(start / l2Coverage);
      const end = Math.min(range.end, (l1Index + 1) * l2Coverage);
      await this.#holding(start, end, () => work({ l1Index, start, end }));
      start = end;
    }
  }

  /** Does the work while nobody else works on a cluster of guest bytes [start, end). */
  async #holding(start: number, end: number, work: () => Promise<void>): Promise<void> {
    const { clusterSize } = this.#image.geometry;
    const release = await this.#locks.acquire(Math.floor(start / clusterSize), Math.ceil(end / clusterSize) - 1);
    try {
      await work();
    } finally {
      release();
    }
  }
}
