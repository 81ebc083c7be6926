import { ImageError } from '../../core/errors.ts';
import type { ByteReader } from '../../core/extent.ts';
import { tracePoint } from '../../core/trace.ts';
import { allSettled } from '../../core/turns.ts';
import { inContext } from '../../sources/context.ts';
import type { Source } from '../../sources/source.ts';
import type { VmdkImage } from '../../sources/vmdk/image.ts';
import type { Storage } from '../../storage/storage.ts';
import type { ClusterCompressor, Target } from '../target.ts';

/** One extent open for writing; offsets are relative to its beginning. The methods are those of Target. */
export interface ImagePart {
  readonly size: number;
  write(offset: number, buffer: Buffer): Promise<void>;
  zero(offset: number, length: number, options?: { unmap?: boolean }): Promise<void>;
  discard(offset: number, length: number): Promise<void>;
  copyFrom?(offset: number, host: ByteReader, hostOffset: number, length: number): Promise<number>;
  writeCompressed?(offset: number, length: number, packed: Buffer): Promise<void>;
  flush(): Promise<void>;
  /** Completes the extent; its file stays open. */
  close(): Promise<void>;
  abort(): Promise<void>;
}

export interface VmdkTargetOptions {
  storage: Storage;
  parts: readonly ImagePart[];
  /** The reading half: sees what the parts write. */
  source: VmdkImage;
  fresh: boolean;
  readsAsZero: boolean;
  compressor?: ClusterCompressor;
  /** All extents are complete: makes a new image one by writing its descriptor, where that is a file. */
  complete?(): Promise<void>;
  /** Before the first change of an image that exists: a new CID. */
  begin?(): Promise<void>;
  /** Notes the parent's CID: see Target.adoptBacking. */
  adopt?(below: Source): Promise<void>;
}

const traceClose = tracePoint('vmdk_close');

/** What a device that a new image was given up on must not begin with. */
const HEAD_BYTES = 4096;

/** A VMDK image open for writing: each range goes to the extents that it lies in. */
export class VmdkTarget implements Target {
  readonly format = 'vmdk';
  readonly name: string;
  readonly size: number;
  readonly granularity: number;
  readonly readsAsZero: boolean;
  readonly sequential = false;
  readonly source: VmdkImage;
  readonly compressor?: ClusterCompressor;
  readonly copyFrom?: Target['copyFrom'];
  readonly #options: VmdkTargetOptions;
  readonly #starts: readonly number[];
  #beginning: Promise<void> | null = null;
  #closing: Promise<void> | null = null;

  constructor(options: VmdkTargetOptions) {
    const { storage, source, parts, readsAsZero, compressor } = options;
    this.#options = options;
    this.name = storage.name;
    this.size = source.size;
    this.granularity = source.granularity;
    this.readsAsZero = readsAsZero;
    this.source = source;
    this.compressor = compressor;
    let start = 0;
    this.#starts = parts.map(({ size }) => {
      start += size;
      return start - size;
    });
    if (parts.some((part) => part.copyFrom !== undefined)) this.copyFrom = (...range) => this.#copyFrom(...range);
  }

  write(offset: number, buffer: Buffer): Promise<void> {
    return this.#change('write', offset, buffer.length, (part, at, length, done) =>
      part.write(at, buffer.subarray(done, done + length)),
    );
  }

  zero(offset: number, length: number, options?: { unmap?: boolean }): Promise<void> {
    return this.#change('zero', offset, length, (part, at, count) => part.zero(at, count, options));
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#change('discard', offset, length, (part, at, count) => part.discard(at, count));
  }

  writeCompressed(offset: number, length: number, packed: Buffer): Promise<void> {
    return this.#change('write', offset, length, async (part, at, count) => {
      if (part.writeCompressed === undefined || count !== length) {
        throw new ImageError('unsupported', 'This kind of extent has no compressed grains', { offset });
      }
      await part.writeCompressed(at, length, packed);
    });
  }

  async #copyFrom(offset: number, host: ByteReader, hostOffset: number, length: number): Promise<number> {
    let copied = 0;
    await this.#change('write', offset, length, async (part, at, count, done) => {
      // What is copied is told as one run from the start.
      if (copied === done) copied += (await part.copyFrom?.(at, host, hostOffset + done, count)) ?? 0;
    });
    return copied;
  }

  adoptBacking(below: Source): Promise<void> {
    return this.#inContext(async () => this.#options.adopt?.(below));
  }

  flush(): Promise<void> {
    return this.#inContext(async () => {
      for (const part of this.#options.parts) await part.flush();
      await this.#options.storage.flush();
    });
  }

  close(): Promise<void> {
    this.#closing ??= this.#inContext(() => this.#close());
    return this.#closing;
  }

  abort(): Promise<void> {
    this.#closing ??= this.#abort();
    return this.#closing;
  }

  async #close(): Promise<void> {
    const { parts, fresh, complete } = this.#options;
    if (traceClose.enabled) traceClose.emit({ file: this.name, extents: parts.length, fresh });
    try {
      for (const part of parts) await part.close();
      await complete?.();
    } catch (error) {
      await this.#giveUp().catch(() => {});
      throw error;
    }
    await this.#closeStorages(false);
  }

  async #abort(): Promise<void> {
    for (const part of this.#options.parts) await part.abort().catch(() => {});
    await this.#giveUp();
  }

  async #giveUp(): Promise<void> {
    const { storage, fresh } = this.#options;
    if (fresh) await makeUnrecognisable(storage);
    await this.#closeStorages(fresh);
  }

  async #closeStorages(discard: boolean): Promise<void> {
    const { storage, source } = this.#options;
    const files = new Set(source.extents.map((each) => each.storage));
    try {
      const others = [...files].filter((file) => file !== null && file !== storage);
      await allSettled(others.map(async (file) => file?.close({ discard })));
    } finally {
      await storage.close({ discard });
    }
  }

  /** Calls `work` for the part of the range in each extent: its offset there, its length, and how many bytes precede it. */
  #change(
    operation: string,
    offset: number,
    length: number,
    work: (part: ImagePart, offset: number, length: number, done: number) => Promise<void>,
  ): Promise<void> {
    return this.#inContext(async () => {
      this.#check(operation, offset, length);
      if (!this.#options.fresh) await this.#begin();
      for (let done = 0; done < length; ) {
        const index = this.#indexAt(offset + done);
        const part = this.#options.parts[index];
        const at = offset + done - this.#starts[index];
        const count = Math.min(length - done, part.size - at);
        await work(part, at, count, done);
        done += count;
      }
    });
  }

  #begin(): Promise<void> {
    this.#beginning ??= this.#options.begin?.() ?? Promise.resolve();
    return this.#beginning;
  }

  #check(operation: string, offset: number, length: number): void {
    const context = { file: this.name, format: this.format, operation, offset };
    if (this.#closing !== null) throw new ImageError('io', 'The image is closed', context);
    if (offset < 0 || length < 0 || offset + length > this.size) {
      throw new ImageError('invalid', `Bytes ${offset} to ${offset + length} lie outside the disk`, context);
    }
  }

  #indexAt(offset: number): number {
    let [low, high] = [0, this.#starts.length - 1];
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (this.#starts[middle] <= offset) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  async #inContext(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      throw inContext(error, this.name, this.format);
    }
  }
}

/** A file that was there before stays, and its header may be in it: nobody shall take it for a disk. */
export async function makeUnrecognisable(storage: Storage): Promise<void> {
  const emptied = storage.fixedSize
    ? storage.write(0, Buffer.alloc(Math.min(HEAD_BYTES, storage.size)))
    : storage.truncate(0);
  // What is broken beneath may refuse even that.
  await emptied.catch(() => {});
}
