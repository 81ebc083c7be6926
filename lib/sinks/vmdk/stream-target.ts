import { ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import { allSettled } from '../../core/turns.ts';
import { encodeSparseHeader, GRAIN_BYTES, SECTOR } from '../../layouts/vmdk/index.ts';
import type { BlockStore } from '../blocks/store.ts';
import type { ClusterCompressor, Target } from '../target.ts';
import { grainCompressor } from './grain-compressor.ts';
import { StreamWriter, type StreamWriterOptions } from './stream-writer.ts';

export interface StreamTargetOptions extends StreamWriterOptions {
  /** Guest bytes. */
  size: number;
  /** The descriptor's text. */
  descriptor: Buffer;
  backing: BlockStore['backing'];
  hasBacking: boolean;
}

const traceBegin = tracePoint('vmdk_stream_begin');

/** Writes header and descriptor into the pipe; the grains follow. */
export async function beginStream(options: StreamTargetOptions): Promise<StreamTarget> {
  const { storage, header, descriptor, size } = options;
  if (traceBegin.enabled) traceBegin.emit({ file: storage.name, size });
  const head = Buffer.alloc(header.overhead * SECTOR);
  encodeSparseHeader(header).copy(head);
  descriptor.copy(head, header.descriptorSector * SECTOR);
  await storage.write(0, head);
  return new StreamTarget(options);
}

/** A grain that is not complete yet. */
interface PartialGrain {
  block: number;
  plain: Buffer;
}

/** A stream-optimized image into a pipe: guest bytes in ascending order, what is left out reads as zeros. */
export class StreamTarget implements Target {
  readonly format = 'vmdk';
  readonly name: string;
  readonly size: number;
  readonly granularity = GRAIN_BYTES;
  readonly readsAsZero: boolean;
  readonly sequential = true;
  readonly source = null;
  readonly compressor: ClusterCompressor = grainCompressor;
  readonly #options: StreamTargetOptions;
  readonly #writer: StreamWriter;
  /** Guest offset up to which everything is written. */
  #at = 0;
  #partial: PartialGrain | null = null;
  /** Calls go one after the other, in their order. */
  #turn: Promise<void> = Promise.resolve();
  /** What the call before left to be written, while the next one compresses. */
  #behind: Promise<void>[] = [];
  #ended = false;

  constructor(options: StreamTargetOptions) {
    this.#options = options;
    this.#writer = new StreamWriter(options);
    this.name = options.storage.name;
    this.size = options.size;
    this.readsAsZero = !options.hasBacking;
  }

  write(offset: number, buffer: Buffer): Promise<void> {
    return this.#inTurn(async () => {
      this.#advance(offset, buffer.length);
      const packing: [number, Promise<Buffer>][] = [];
      for (let done = 0; done < buffer.length; ) {
        const at = offset + done;
        const block = Math.floor(at / GRAIN_BYTES);
        const length = Math.min(buffer.length - done, (block + 1) * GRAIN_BYTES - at);
        const bytes = buffer.subarray(done, done + length);
        if (length === GRAIN_BYTES) {
          packing.push([block, this.#writer.compress(bytes)]);
        } else {
          await this.#placeAll(packing.splice(0));
          await this.#addPart(at, bytes);
        }
        done += length;
      }
      await this.#placeAll(packing);
    });
  }

  zero(offset: number, length: number): Promise<void> {
    return this.#inTurn(async () => {
      this.#advance(offset, length);
      // What is not written reads as zeros; over a backing file they must be said.
      const end = offset + length;
      for (let at = offset; this.#options.hasBacking && at < end; ) {
        const block = Math.floor(at / GRAIN_BYTES);
        const stop = Math.min(end, (block + 1) * GRAIN_BYTES);
        await this.#zeroPart(block, at, stop);
        at = stop;
      }
    });
  }

  writeCompressed(offset: number, length: number, packed: Buffer): Promise<void> {
    return this.#inTurn(async () => {
      this.#advance(offset, length);
      if (offset % GRAIN_BYTES !== 0) throw this.#error('A compressed write must cover one grain', offset);
      await this.#flushPart();
      await this.#placeAll([[offset / GRAIN_BYTES, Promise.resolve(packed)]]);
    });
  }

  flush(): Promise<void> {
    return this.#inTurn(async () => {
      await this.#settleBehind();
      await this.#options.storage.flush();
    });
  }

  async close(): Promise<void> {
    if (this.#ended) return this.#turn;
    const closing = this.#inTurn(async () => {
      await this.#flushPart();
      await this.#settleBehind();
      await this.#writer.finish();
      await this.#options.storage.flush();
    });
    this.#ended = true;
    try {
      await closing;
    } catch (error) {
      await this.#options.storage.close({ discard: true }).catch(() => {});
      throw error;
    }
    await this.#options.storage.close();
  }

  async abort(): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    await this.#options.storage.close({ discard: true });
    await this.#turn.catch(() => {});
    await this.#writer.settle();
  }

  #inTurn(task: () => Promise<void>): Promise<void> {
    if (this.#ended) return Promise.reject(this.#error('The image is closed', this.#at));
    this.#turn = this.#turn.then(task);
    // The caller sees a failure; that nobody waits for the turn itself is no reason to end the process.
    this.#turn.catch(() => {});
    return this.#turn;
  }

  #advance(offset: number, length: number): void {
    if (offset < this.#at || offset + length > this.size) {
      throw this.#error('Writes to a pipe must come in order', offset);
    }
    this.#at = offset + length;
  }

  /** Resolves when all are compressed: their plain bytes are then no longer needed. */
  async #placeAll(packing: readonly [number, Promise<Buffer>][]): Promise<void> {
    if (packing.length === 0) return;
    for (const [, packed] of packing) packed.catch(() => {});
    await this.#flushPart();
    const placing = packing.map(([block, packed]) => this.#writer.place(block, packed));
    await this.#settleBehind();
    await allSettled(placing);
    for (const placed of placing) {
      const { written } = await placed;
      written.catch(() => {});
      this.#behind.push(written);
    }
  }

  async #settleBehind(): Promise<void> {
    const behind = this.#behind;
    this.#behind = [];
    await allSettled(behind);
  }

  /** Adds a piece of a grain to what is there of it. */
  async #addPart(offset: number, bytes: Buffer): Promise<void> {
    const block = Math.floor(offset / GRAIN_BYTES);
    if (this.#partial?.block !== block) {
      await this.#flushPart();
      this.#partial = { block, plain: await this.#below(block) };
    }
    bytes.copy(this.#partial.plain, offset - block * GRAIN_BYTES);
  }

  /** Writes the incomplete grain as it is. */
  async #flushPart(): Promise<void> {
    if (this.#partial === null) return;
    const { block, plain } = this.#partial;
    this.#partial = null;
    await this.#placeAll([[block, this.#writer.compress(plain)]]);
  }

  async #zeroPart(block: number, start: number, end: number): Promise<void> {
    const base = block * GRAIN_BYTES;
    const whole = start === base && end >= Math.min(this.size, base + GRAIN_BYTES);
    if (whole && base >= (this.#options.backing?.size ?? Number.POSITIVE_INFINITY)) return;
    if (!whole) return this.#addPart(start, Buffer.alloc(end - start));
    await this.#flushPart();
    if (this.#writer.tables.shape.rules.zeroGrains) return this.#writer.mark(block, 1);
    await this.#placeAll([[block, this.#writer.compress(Buffer.alloc(GRAIN_BYTES))]]);
  }

  /** What a grain that is written in part is filled up with. */
  async #below(block: number): Promise<Buffer> {
    const { hasBacking, backing } = this.#options;
    const plain = Buffer.alloc(GRAIN_BYTES);
    if (!hasBacking) return plain;
    if (backing === null) {
      throw this.#error('A grain is written in part, and its backing file is not open', block * GRAIN_BYTES);
    }
    const base = block * GRAIN_BYTES;
    const length = Math.min(GRAIN_BYTES, backing.size - base, this.size - base);
    if (length > 0) await backing.read(base, plain.subarray(0, length));
    return plain;
  }

  #error(message: string, offset: number): ImageError {
    return new ImageError('invalid', message, { file: this.name, format: this.format, operation: 'write', offset });
  }
}
