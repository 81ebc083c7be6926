import { ImageError } from '../../core/errors.ts';
import { allSettled } from '../../core/turns.ts';
import { encodeSparseHeader, SECTOR } from '../../layouts/vmdk/index.ts';
import type { BlockSource } from '../../sources/block-source.ts';
import { sparseReaderOf } from '../../sources/vmdk/readers.ts';
import type { BlockStore } from '../blocks/store.ts';
import { RangeLocks } from '../locks.ts';
import { StreamWriter, type StreamWriterOptions } from './stream-writer.ts';
import { type ImagePart, makeUnrecognisable } from './target.ts';

export interface StreamPartOptions extends StreamWriterOptions {
  backing: BlockStore['backing'];
  hasBacking: boolean;
  /** The text of a new image's descriptor. */
  descriptor: Buffer | null;
  /** The directory is in a footer, which stops being one as soon as anything follows it. */
  hasFooter: boolean;
}

/** A stream-optimized extent in a file, written at random: whole grains are cheapest, and in guest order it becomes a stream. */
export class StreamPart implements ImagePart {
  readonly size: number;
  readonly source: BlockSource;
  readonly #options: StreamPartOptions;
  readonly #grain: number;
  readonly #writer: StreamWriter;
  readonly #locks = new RangeLocks();
  readonly #zeroGrains: boolean;
  #beginning: Promise<void> | null = null;

  constructor(options: StreamPartOptions) {
    const { storage, header } = options;
    this.#options = options;
    this.#writer = new StreamWriter(options);
    const { rules } = this.#writer.tables.shape;
    this.size = rules.size;
    this.#grain = rules.grainBytes;
    this.#zeroGrains = rules.zeroGrains;
    this.source = sparseReaderOf({ storage, header, tables: this.#writer.tables, writable: true });
  }

  write(offset: number, buffer: Buffer): Promise<void> {
    return this.#eachGrain(offset, buffer.length, async (block, start, end) => {
      const bytes = buffer.subarray(start - offset, end - offset);
      const plain = bytes.length === this.#grain ? bytes : await this.#merged(block, start, bytes);
      return this.#writer.place(block, this.#writer.compress(plain));
    });
  }

  writeCompressed(offset: number, length: number, packed: Buffer): Promise<void> {
    return this.#eachGrain(offset, length, (block) => this.#writer.place(block, Promise.resolve(packed)));
  }

  async zero(offset: number, length: number): Promise<void> {
    await this.#begin();
    const { tables } = this.#writer;
    const end = offset + length;
    const perTable = tables.shape.pageEntries * this.#grain;
    for (let at = offset; at < end; ) {
      const stop = Math.min(end, (Math.floor(at / perTable) + 1) * perTable);
      const nothingThere = tables.isAbsent(Math.floor(at / this.#grain)) && !this.#isBacked(at);
      if (!nothingThere) {
        await this.#eachGrain(at, stop - at, (block, start, to) => this.#zeroGrain(block, start, to));
      }
      at = stop;
    }
  }

  /** What a grain that is no longer needed takes cannot be given back: it reads as it did. */
  async discard(): Promise<void> {}

  async flush(): Promise<void> {
    await this.#writer.commit();
    await this.#options.storage.flush();
  }

  async close(): Promise<void> {
    const { storage, header, fresh, descriptor } = this.#options;
    await this.#locks.settle();
    await this.#writer.commit();
    if (fresh) {
      await this.#writer.finish();
      await storage.write(header.descriptorSector * SECTOR, descriptor ?? Buffer.alloc(0));
      await storage.flush();
      await storage.write(0, encodeSparseHeader(header));
    }
    await storage.flush();
  }

  async abort(): Promise<void> {
    const { fresh, storage } = this.#options;
    await this.#writer.settle();
    if (fresh) return makeUnrecognisable(storage);
    await this.#writer.commit();
    await storage.flush();
  }

  /** Before the first change. */
  #begin(): Promise<void> {
    this.#beginning ??= this.#prepare();
    return this.#beginning;
  }

  async #prepare(): Promise<void> {
    const { hasFooter, storage, header, fresh } = this.#options;
    if (fresh || !hasFooter) return;
    // From here on the header tells where the directory is, as in the images that QEMU makes.
    await storage.write(0, encodeSparseHeader(header));
    await storage.flush();
  }

  /** The grain's bytes with `bytes` in them. */
  async #merged(block: number, start: number, bytes: Buffer): Promise<Buffer> {
    const base = block * this.#grain;
    const plain = Buffer.alloc(this.#grain);
    const inDisk = Math.min(this.#grain, this.size - base);
    if (bytes.length < inDisk) await this.#readOld(block, plain.subarray(0, inDisk));
    bytes.copy(plain, start - base);
    return plain;
  }

  /** What the grain reads as, the backing file included. */
  async #readOld(block: number, into: Buffer): Promise<void> {
    const base = block * this.#grain;
    if (!(await this.#isEmpty(block)) || !this.#isBacked(base)) return this.source.read(base, into);
    const { backing, storage } = this.#options;
    if (backing === null) {
      throw new ImageError('refused', 'Parts of grains cannot be written while the backing file is not open', {
        file: storage.name,
        format: 'vmdk',
        offset: base,
      });
    }
    await backing.read(base, into.subarray(0, Math.min(into.length, backing.size - base)));
  }

  async #isEmpty(block: number): Promise<boolean> {
    const { tables, lock } = this.#writer;
    if (tables.isAbsent(block)) return true;
    return lock.run(async () => tables.get(await tables.table(block), block) === 0);
  }

  /** Whether guest bytes from `offset` on that this layer leaves unallocated may come from a backing file. */
  #isBacked(offset: number): boolean {
    const { hasBacking, backing } = this.#options;
    return hasBacking && (backing === null || offset < backing.size);
  }

  async #zeroGrain(block: number, start: number, end: number): Promise<Placed | null> {
    const base = block * this.#grain;
    const backed = this.#isBacked(base);
    if (!backed && (await this.#isEmpty(block))) return null;
    const whole = start === base && end >= Math.min(base + this.#grain, this.size);
    if (whole && (this.#zeroGrains || !backed)) {
      await this.#writer.mark(block, this.#zeroGrains ? 1 : 0);
      return null;
    }
    const plain = await this.#merged(block, start, Buffer.alloc(end - start));
    return this.#writer.place(block, this.#writer.compress(plain));
  }

  /** Calls `work` for each grain in the range, all at once; resolves when what they placed is written. */
  async #eachGrain(offset: number, length: number, work: GrainWork): Promise<void> {
    await this.#begin();
    const end = offset + length;
    const tasks: Promise<void>[] = [];
    for (let start = offset; start < end; ) {
      const block = Math.floor(start / this.#grain);
      const stop = Math.min(end, (block + 1) * this.#grain);
      tasks.push(this.#held(block, start, stop, work));
      start = stop;
    }
    await allSettled(tasks);
  }

  async #held(block: number, start: number, end: number, work: GrainWork): Promise<void> {
    const release = await this.#locks.acquire(block, block);
    try {
      const placed = await work(block, start, end);
      await placed?.written;
    } finally {
      release();
    }
  }
}

type Placed = { written: Promise<void> };
type GrainWork = (block: number, start: number, end: number) => Promise<Placed | null>;
