import { alignUp } from '../core/binary.ts';
import type { Storage } from '../storage/storage.ts';
import { growTo } from './zeros.ts';

interface PackedWrite {
  offset: number;
  packed: Buffer;
  resolve: () => void;
  reject: (error: unknown) => void;
}

const MAX_BATCH = 1024 * 1024;

/**
 * Writes compressed clusters, neighbours together: what arrives while a write is under way waits for the
 * next, so that a busy window becomes few large writes and a lone cluster waits for nobody.
 */
export class PackedWriter {
  readonly #storage: Storage;
  readonly #unit: number;
  #queue: PackedWrite[] = [];
  #busy = false;

  /** @param unit the file always ends at a multiple of this many bytes */
  constructor(storage: Storage, unit = 1) {
    this.#storage = storage;
    this.#unit = unit;
  }

  /** Resolves when the bytes are written. */
  write(offset: number, packed: Buffer): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#queue.push({ offset, packed, resolve, reject });
      if (!this.#busy) void this.#run();
    });
  }

  async #run(): Promise<void> {
    this.#busy = true;
    while (this.#queue.length > 0) {
      const batch = this.#takeBatch();
      try {
        await this.#storage.writev(
          batch[0].offset,
          batch.map(({ packed }) => packed),
        );
        const last = batch[batch.length - 1];
        await growTo(this.#storage, alignUp(last.offset + last.packed.length, this.#unit));
        for (const { resolve } of batch) resolve();
      } catch (error) {
        for (const { reject } of batch) reject(error);
      }
    }
    this.#busy = false;
  }

  #takeBatch(): PackedWrite[] {
    let count = 0;
    let end = this.#queue[0].offset;
    let bytes = 0;
    while (count < this.#queue.length && this.#queue[count].offset === end && bytes < MAX_BATCH) {
      end += this.#queue[count].packed.length;
      bytes += this.#queue[count].packed.length;
      count += 1;
    }
    return this.#queue.splice(0, count);
  }
}
