import { ImageError } from '../core/errors.ts';
import type { Storage } from '../storage/storage.ts';
import type { Target } from './target.ts';

/**
 * A disk into a pipe: bytes in guest order, zeros where nothing is written. They follow only once something comes behind
 * them, or at the end. What becomes of the bytes is the format's own.
 */
export abstract class ForwardTarget implements Target {
  abstract readonly format: string;
  readonly name: string;
  readonly granularity: number = 1;
  readonly readsAsZero = true;
  readonly sequential = true;
  readonly source = null;
  protected readonly storage: Storage;
  readonly #size: number | null;
  /** First guest offset that has been neither written nor zeroed. */
  #end = 0;
  /** Guest offset up to which all has been put out. */
  #written = 0;
  /** Requests go one after the other, in the order of their calls. */
  #turn: Promise<void> = Promise.resolve();
  #ended = false;

  /** @param size guest bytes; null: the disk ends with the last byte that is written or zeroed */
  constructor(storage: Storage, size: number | null) {
    this.name = storage.name;
    this.storage = storage;
    this.#size = size;
  }

  /** Puts out guest bytes [start, end), which are the next. Null stands for zeros. */
  protected abstract put(start: number, end: number, bytes: Buffer | null): Promise<void>;

  /** Puts out all that is missing, once `size` is final. */
  protected abstract finish(): Promise<void>;

  /** Resolves when all that `put` has taken is written; rejects with what went wrong with it meanwhile. */
  protected async drain(): Promise<void> {}

  /** Lets go of all but the storage, once nothing is put out any more; what is still under way may fail. */
  protected async dispose(): Promise<void> {}

  get size(): number {
    return this.#size ?? this.#end;
  }

  write(offset: number, buffer: Buffer): Promise<void> {
    return this.#next(async () => {
      this.#advance(offset, buffer.length);
      await this.fillTo(offset);
      await this.put(offset, this.#end, buffer);
      this.#written = this.#end;
    });
  }

  zero(offset: number, length: number): Promise<void> {
    return this.#next(async () => this.#advance(offset, length));
  }

  /** Zeros up to guest offset `end`. */
  protected async fillTo(end: number): Promise<void> {
    if (end <= this.#written) return;
    await this.put(this.#written, end, null);
    this.#written = end;
  }

  flush(): Promise<void> {
    return this.#next(async () => {
      await this.drain();
      await this.storage.flush();
    });
  }

  async close(): Promise<void> {
    if (this.#ended) return;
    try {
      await this.#next(async () => {
        await this.finish();
        await this.drain();
      });
    } catch (error) {
      await this.abort().catch(() => {});
      throw error;
    }
    this.#ended = true;
    await this.dispose();
    await this.storage.close();
  }

  async abort(): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    // What waits for a reader is given up: it may never read on.
    const closing = this.storage.close({ discard: true });
    await this.#turn;
    await this.dispose();
    await closing;
  }

  #next(task: () => Promise<void>): Promise<void> {
    const run = this.#turn.then(task);
    this.#turn = run.catch(() => {});
    return run;
  }

  #advance(offset: number, length: number): void {
    if (this.#ended || offset < this.#end || offset + length > (this.#size ?? Number.MAX_SAFE_INTEGER)) {
      const message = 'A pipe takes a disk from its start to its end only';
      throw new ImageError('invalid', message, { file: this.name, format: this.format, operation: 'write', offset });
    }
    this.#end = offset + length;
  }
}
