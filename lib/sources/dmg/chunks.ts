import { LRUCache } from 'lru-cache';
import { ensure, ImageError } from '../../core/errors.ts';
import { BufferPool } from '../../core/pool.ts';
import { tracePoint } from '../../core/trace.ts';
import { Turns } from '../../core/turns.ts';
import type { ChunkTable } from '../../layouts/dmg/index.ts';
import type { Storage } from '../../storage/storage.ts';
import { unpackChunk } from './unpack.ts';

/** Chunks that are wanted in part are kept: the next part is asked for soon. */
const KEPT_BYTES = 16 * 1024 * 1024;
/** Chunks decompressed at once: enough for the thread pool, unless they are so large that memory counts. */
const MAX_TASKS = 16;
const MAX_BYTES = 32 * 1024 * 1024;
/** Buffers for stored bytes are used again, unless they would be larger than this. */
const MAX_POOLED = 1024 * 1024;

const traceUnpack = tracePoint('dmg_unpack');

/** Reads packed chunks: several at once, each of them once however many callers want a part of it. */
export class PackedChunks {
  readonly #storage: Storage;
  readonly #table: ChunkTable;
  readonly #kept: LRUCache<number, Buffer>;
  readonly #underway = new Map<number, Promise<Buffer>>();
  readonly #tasks: Turns;
  readonly #pool: BufferPool;

  constructor(storage: Storage, table: ChunkTable) {
    this.#storage = storage;
    this.#table = table;
    this.#kept = new LRUCache({
      maxSize: Math.max(KEPT_BYTES, table.largest),
      sizeCalculation: (bytes) => Math.max(1, bytes.length),
    });
    const most = Math.floor(MAX_BYTES / Math.max(1, table.largest));
    this.#tasks = new Turns(Math.max(1, Math.min(MAX_TASKS, most)));
    this.#pool = new BufferPool(Math.min(MAX_POOLED, table.largestStored));
  }

  /** Fills `target` with bytes of the chunk from `skip` on. */
  async read(index: number, skip: number, target: Buffer): Promise<void> {
    const partly = target.length < this.#table.lengths[index];
    const plain = this.#kept.get(index) ?? (await this.#unpackOnce(index, partly));
    plain.copy(target, 0, skip, skip + target.length);
  }

  #unpackOnce(index: number, keep: boolean): Promise<Buffer> {
    let task = this.#underway.get(index);
    if (task === undefined) {
      task = this.#tasks.run(() => this.#unpack(index)).finally(() => this.#underway.delete(index));
      this.#underway.set(index, task);
    }
    return keep ? task.then((plain) => this.#keep(index, plain)) : task;
  }

  #keep(index: number, plain: Buffer): Buffer {
    this.#kept.set(index, plain);
    return plain;
  }

  async #unpack(index: number): Promise<Buffer> {
    const { types, lengths, hosts, stored } = this.#table;
    const [offset, length] = [hosts[index], stored[index]];
    const { name: file, size } = this.#storage;
    ensure(offset + length <= size, 'A chunk reaches past the end of the file', { file, offset });
    const buffer = length <= this.#pool.size ? this.#pool.take() : Buffer.allocUnsafeSlow(length);
    const packed = buffer.subarray(0, length);
    try {
      await this.#storage.read(offset, packed);
      if (traceUnpack.enabled) traceUnpack.emit({ file, chunk: index, offset, length, size: lengths[index] });
      return await unpackChunk(types[index], packed, lengths[index]);
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
      throw new ImageError(error.kind, error.message, {
        file,
        operation: 'read',
        offset,
        code: error.code,
        cause: error,
      });
    } finally {
      this.#pool.give(buffer);
    }
  }
}
