import { alignUp } from '../core/binary.ts';
import { ImageError } from '../core/errors.ts';
import { SECTOR } from '../sources/raw.ts';
import type { Storage } from '../storage/storage.ts';
import type { RawCreateOptions } from './raw.ts';
import type { Target } from './target.ts';

/**
 * A raw disk into a pipe: bytes in guest order, zeros where nothing is written. `size` null: the disk ends with the
 * last byte that is written or zeroed.
 */
export function streamRaw(storage: Storage, size: number | null, options: RawCreateOptions = {}): Target {
  const { preallocation = 'off', nocow = false, extent_size_hint: hint } = options;
  if (preallocation !== 'off' || nocow !== false || hint !== undefined) {
    throw new ImageError('unsupported', 'A pipe has no space to preallocate or to tune', { file: storage.name });
  }
  return new RawStream(storage, size === null ? null : alignUp(size, SECTOR));
}

class RawStream implements Target {
  readonly format = 'raw';
  readonly name: string;
  readonly granularity = 1;
  readonly readsAsZero = true;
  readonly sequential = true;
  readonly source = null;
  readonly #storage: Storage;
  readonly #size: number | null;
  /** First offset that has been neither written nor zeroed. */
  #end = 0;
  /** Bytes in the pipe: zeros are only written once something follows them, or at the end. */
  #written = 0;
  /** Requests go one after the other, in the order of their calls. */
  #turn: Promise<void> = Promise.resolve();
  #ended = false;

  constructor(storage: Storage, size: number | null) {
    this.name = storage.name;
    this.#storage = storage;
    this.#size = size;
  }

  get size(): number {
    return this.#size ?? this.#end;
  }

  write(offset: number, buffer: Buffer): Promise<void> {
    return this.#next(async () => {
      this.#advance(offset, buffer.length);
      await this.#fill(offset);
      await this.#storage.write(offset, buffer);
      this.#written = this.#end;
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
      await this.#next(() => this.#fill(this.size));
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
    await this.#turn;
    await this.#storage.close({ discard: true });
  }

  #next(task: () => Promise<void>): Promise<void> {
    const run = this.#turn.then(task);
    this.#turn = run.catch(() => {});
    return run;
  }

  #advance(offset: number, length: number): void {
    const limit = this.#size ?? Number.MAX_SAFE_INTEGER;
    if (offset < this.#end || offset + length > limit) {
      throw new ImageError('invalid', 'A pipe takes a disk from its start to its end only', {
        file: this.name,
        format: 'raw',
        operation: 'write',
        offset,
      });
    }
    this.#end = offset + length;
  }

  async #fill(end: number): Promise<void> {
    if (end <= this.#written) return;
    await this.#storage.zero(this.#written, end - this.#written);
    this.#written = end;
  }
}
