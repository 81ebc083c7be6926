import { alignUp } from '../../core/binary.ts';
import { ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import { inContext } from '../../sources/context.ts';
import type { BackingReference, Source } from '../../sources/source.ts';
import { RangeLocks } from '../locks.ts';
import { PackedWriter } from '../packed-writer.ts';
import type { ClusterCompressor, Target } from '../target.ts';
import { type GuestRange, writeZeros } from '../zeros.ts';
import { type Clearing, clearSegment } from './clear.ts';
import { blockCompressor, writePacked } from './packed.ts';
import type { BlockStore } from './store.ts';
import { writeSegment } from './write.ts';

/** What is blanked of a device that a new image was given up on: more than any format's first structures. */
const HEAD_BYTES = 4096;

const traceClose = tracePoint('blocks_close');

/** An image with a block table, open for writing: the one write path of all such formats, for new and existing images. */
export class BlockTarget implements Target {
  readonly format: string;
  readonly name: string;
  readonly granularity: number;
  readonly sparseUnit?: number;
  readonly readsAsZero: boolean;
  readonly sequential = false;
  readonly source: Source;
  readonly compressor?: ClusterCompressor;
  readonly truncate?: Target['truncate'];
  readonly makeEmpty?: Target['makeEmpty'];
  readonly setBacking?: Target['setBacking'];
  readonly #store: BlockStore;
  readonly #locks = new RangeLocks();
  readonly #packed: PackedWriter;
  #beginning: Promise<void> | null = null;
  #closing: Promise<void> | null = null;

  /**
   * @param readsAsZero default: a new image without backing file does
   * @param sparseUnit see Target: for blocks so large that what is not written of them should stay a hole
   */
  constructor(store: BlockStore, options: { readsAsZero?: boolean; sparseUnit?: number } = {}) {
    const { readsAsZero = store.fresh && !store.hasBacking, sparseUnit } = options;
    this.#store = store;
    this.format = store.format;
    this.name = store.name;
    this.granularity = store.blockSize;
    this.sparseUnit = sparseUnit;
    this.readsAsZero = readsAsZero;
    this.source = store.source;
    this.compressor = blockCompressor(store);
    this.#packed = new PackedWriter(store.data);
    if (store.resize !== undefined) {
      this.truncate = async (size, { preallocation = 'off' } = {}) => {
        if (preallocation !== 'off') throw this.#unsupported(`Unsupported preallocation mode '${preallocation}'`);
        await this.#change('truncate', { offset: 0, length: 0 }, () => this.#resize(size));
      };
    }
    if (store.makeEmpty !== undefined) {
      this.makeEmpty = () => this.#alone('empty', async () => store.makeEmpty?.());
    }
    if (store.setBacking !== undefined) {
      this.setBacking = (backing: BackingReference | null) =>
        this.#alone('change backing file', async () => store.setBacking?.(backing));
    }
  }

  get size(): number {
    return this.#store.size;
  }

  /** Runs what concerns all blocks: all is on the disk before, and nobody writes meanwhile. */
  #alone(operation: string, work: () => Promise<void>): Promise<void> {
    return this.#change(operation, { offset: 0, length: 0 }, async () => {
      const release = await this.#locks.acquire(0, Number.MAX_SAFE_INTEGER);
      try {
        await this.flush();
        await this.#store.tables.lock.run(work);
      } finally {
        release();
      }
    });
  }

  write(offset: number, buffer: Buffer): Promise<void> {
    return this.#change('write', { offset, length: buffer.length }, () => this.#write(offset, buffer));
  }

  zero(offset: number, length: number, options: { unmap?: boolean } = {}): Promise<void> {
    return this.#change('zero', { offset, length }, () =>
      this.#clear(offset, offset + length, options.unmap ? 'unmap' : 'zero'),
    );
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#change('discard', { offset, length }, () => this.#clear(offset, offset + length, 'discard'));
  }

  writeCompressed(offset: number, length: number, packed: Buffer): Promise<void> {
    return this.#change('write', { offset, length }, async () => {
      const block = Math.floor(offset / this.granularity);
      const release = await this.#locks.acquire(block, block);
      try {
        await writePacked(this.#store, this.#packed, { offset, length, packed });
      } finally {
        release();
      }
    });
  }

  flush(): Promise<void> {
    const { storage, data } = this.#store;
    return this.#inContext(() =>
      this.#store.tables.lock.run(async () => {
        await this.#store.commit();
        if (data !== storage) await data.flush();
        await storage.flush();
      }),
    );
  }

  close(): Promise<void> {
    this.#closing ??= this.#inContext(() => this.#close());
    return this.#closing;
  }

  abort(): Promise<void> {
    this.#closing ??= this.#abort();
    return this.#closing;
  }

  async #write(offset: number, buffer: Buffer): Promise<void> {
    await this.#eachPage(offset, offset + buffer.length, async ({ start, end }) => {
      const bytes = buffer.subarray(start - offset, end - offset);
      await writeSegment(this.#store, { start, end, bytes });
    });
  }

  async #clear(start: number, end: number, clearing: Clearing): Promise<void> {
    const left: GuestRange[] = [];
    await this.#eachPage(start, end, async (part) => {
      left.push(...(await clearSegment(this.#store, { ...part, clearing })));
    });
    for (const range of left) await writeZeros(range, (at, zeros) => this.#write(at, zeros));
  }

  async #resize(size: number): Promise<void> {
    const store = this.#store;
    const old = store.size;
    store.checkResize?.(size);
    if (size < old) await this.#clear(size, old, 'discard');
    // What lay behind the old end, in its last block, must not show up. The store sees to the blocks that are added.
    const end = Math.min(size, alignUp(old, this.granularity));
    if (end > old && !store.fresh) await this.#clear(old, end, 'zero');
    // Nobody writes meanwhile: a store may move its table.
    const release = await this.#locks.acquire(0, Number.MAX_SAFE_INTEGER);
    try {
      await store.tables.lock.run(async () => store.resize?.(size));
    } finally {
      release();
    }
  }

  async #close(): Promise<void> {
    const store = this.#store;
    await this.#locks.settle();
    if (traceClose.enabled) traceClose.emit({ file: this.name, format: this.format, fresh: store.fresh });
    try {
      await store.tables.lock.run(async () => {
        await store.commit();
        if (store.fresh || this.#beginning !== null) await store.complete();
      });
      await this.source.close();
    } catch (error) {
      await this.#giveUp().catch(() => {});
      throw error;
    }
    await store.close(false);
  }

  async #abort(): Promise<void> {
    const store = this.#store;
    await this.#locks.settle();
    // An existing image keeps what was written so far, as a valid image.
    if (!store.fresh) {
      await store.tables.lock
        .run(async () => {
          await store.commit();
          if (this.#beginning !== null) await store.complete();
        })
        .catch(() => {});
    }
    await this.#giveUp();
  }

  /** A file that was there before stays: nobody shall take what is in it for a disk. What is broken may refuse even that. */
  async #giveUp(): Promise<void> {
    const { fresh, storage } = this.#store;
    await this.source.close().catch(() => {});
    if (fresh) {
      const blank = Buffer.alloc(Math.min(HEAD_BYTES, storage.size));
      await (storage.fixedSize ? storage.write(0, blank) : storage.truncate(0)).catch(() => {});
    }
    await this.#store.close(fresh);
  }

  /** Runs an operation that changes the range, after what every change must be preceded by. */
  #change(operation: string, range: { offset: number; length: number }, work: () => Promise<void>): Promise<void> {
    return this.#inContext(async () => {
      this.#check(operation, range);
      if (!this.#store.fresh) await this.#begin();
      await work();
    });
  }

  #begin(): Promise<void> {
    this.#beginning ??= this.#store.tables.lock.run(async () => this.#store.begin?.());
    return this.#beginning;
  }

  #check(operation: string, { offset, length }: { offset: number; length: number }): void {
    const context = { file: this.name, format: this.format, operation, offset };
    if (this.#closing !== null) throw new ImageError('io', 'The image is closed', context);
    if (offset < 0 || length < 0 || offset + length > this.size) {
      throw new ImageError('invalid', `Bytes ${offset} to ${offset + length} lie outside the disk`, context);
    }
  }

  #unsupported(message: string): ImageError {
    return new ImageError('unsupported', message, { file: this.name, format: this.format });
  }

  async #inContext(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      throw inContext(error, this.name, this.format);
    }
  }

  /** Calls `work` for the part of the range under each table page, holding the blocks that it touches. */
  async #eachPage(from: number, to: number, work: (part: GuestRange) => Promise<void>): Promise<void> {
    const { blockSize } = this.#store;
    for (let start = from; start < to; ) {
      const end = Math.min(to, this.#store.tables.pageEnd(Math.floor(start / blockSize)) * blockSize);
      const release = await this.#locks.acquire(Math.floor(start / blockSize), Math.ceil(end / blockSize) - 1);
      try {
        await work({ start, end });
      } finally {
        release();
      }
      start = end;
    }
  }
}
