import { ImageError } from '../../core/errors.ts';
import { isZero } from '../../core/pool.ts';
import type { Storage } from '../../storage/storage.ts';
import type { Target } from '../target.ts';

/** What of the guest disk comes down the pipe. */
export interface StreamBlocks {
  blockSize: number;
  /** Goes before each block that is there; may be empty. */
  bitmap: Buffer;
  /** The last block is as long as the others, though the disk ends within it. */
  wholeBlocks: boolean;
  isThere(block: number): boolean;
}

export interface StreamParts {
  /** Guest bytes; null: the disk ends with the last byte that is written or zeroed. */
  size: number | null;
  blocks: StreamBlocks;
  /** Where the disk ends after all, and the footer. @param end behind the last byte written or zeroed */
  finish(end: number): { size: number; footer: Buffer };
}

/** A VHD into a pipe: blocks in guest order, zeros where nothing is written, the footer at the end. */
export class VpcStreamTarget implements Target {
  readonly format = 'vpc';
  readonly name: string;
  readonly granularity = 1;
  readonly readsAsZero = true;
  readonly sequential = true;
  readonly source = null;
  readonly #storage: Storage;
  readonly #parts: StreamParts;
  /** First guest offset that has been neither written nor zeroed. */
  #end = 0;
  /** Guest offset up to which all is in the pipe: zeros only follow once something comes behind them. */
  #written = 0;
  /** Requests go one after the other, in the order of their calls. */
  #turn: Promise<void> = Promise.resolve();
  #ended = false;

  constructor(storage: Storage, parts: StreamParts) {
    this.name = storage.name;
    this.#storage = storage;
    this.#parts = parts;
  }

  get size(): number {
    return this.#parts.size ?? this.#end;
  }

  write(offset: number, buffer: Buffer): Promise<void> {
    return this.#next(async () => {
      this.#advance(offset, buffer.length);
      await this.#fill(offset);
      await this.#emit(offset, offset + buffer.length, buffer);
    });
  }

  zero(offset: number, length: number): Promise<void> {
    return this.#next(async () => this.#advance(offset, length));
  }

  flush(): Promise<void> {
    return this.#next(() => this.#storage.flush());
  }

  async close(): Promise<void> {
    if (this.#ended) return;
    try {
      await this.#next(() => this.#finish());
    } catch (error) {
      await this.abort().catch(() => {});
      throw error;
    }
    this.#ended = true;
    await this.#storage.close();
  }

  async abort(): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    const closing = this.#storage.close({ discard: true });
    await this.#turn;
    await closing;
  }

  #next(task: () => Promise<void>): Promise<void> {
    const run = this.#turn.then(task);
    this.#turn = run.catch(() => {});
    return run;
  }

  #advance(offset: number, length: number): void {
    const limit = this.#parts.size ?? Number.MAX_SAFE_INTEGER;
    if (offset < this.#end || offset + length > limit) {
      throw new ImageError('invalid', 'A pipe takes a disk from its start to its end only', {
        file: this.name,
        format: this.format,
        operation: 'write',
        offset,
      });
    }
    this.#end = offset + length;
  }

  async #finish(): Promise<void> {
    const { size, footer } = this.#parts.finish(this.#end);
    const { blockSize, wholeBlocks } = this.#parts.blocks;
    await this.#fill(wholeBlocks ? Math.ceil(size / blockSize) * blockSize : size);
    await this.#storage.write(this.#storage.size, footer);
  }

  /** Zeros up to guest offset `end`. */
  async #fill(end: number): Promise<void> {
    if (end > this.#written) await this.#emit(this.#written, end, null);
  }

  /**
   * Guest bytes [start, end), which are the next: as far as they lie in blocks that are there. Null stands for zeros.
   */
  async #emit(start: number, end: number, bytes: Buffer | null): Promise<void> {
    const { blockSize, bitmap, isThere } = this.#parts.blocks;
    for (let at = start; at < end; ) {
      const block = Math.floor(at / blockSize);
      const stop = Math.min(end, (block + 1) * blockSize);
      const part = bytes === null ? null : bytes.subarray(at - start, stop - start);
      if (isThere(block)) {
        if (at === block * blockSize) await this.#append(bitmap);
        if (part === null) await this.#storage.zero(this.#storage.size, stop - at);
        else await this.#append(part);
      } else if (part !== null && !isZero(part)) {
        throw new ImageError('io', 'The input changed while it was read', { file: this.name, format: this.format });
      }
      at = stop;
    }
    this.#written = end;
  }

  #append(bytes: Buffer): Promise<void> {
    return this.#storage.write(this.#storage.size, bytes);
  }
}
