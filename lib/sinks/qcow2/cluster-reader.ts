import { BufferPool } from '../../core/pool.ts';
import { Window } from '../../core/window.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';

/** Clusters that lie closer than this are read together, with what is between them. */
const READ_GAP = 64 * 1024;
const MAX_READ = 1024 * 1024;
/** Clusters of one batch. */
export const BATCH_BYTES = 2 * 1024 * 1024;
const IN_FLIGHT = 4;
/** Smaller pieces are not worth a large buffer. */
const MIN_POOLED = 256 * 1024;

/** Reads whole clusters (tables, refcount blocks) in few large pieces. */
export class ClusterReader {
  readonly #storage: Storage;
  readonly #size: number;
  readonly #pool: BufferPool;
  readonly #taken = new WeakMap<Map<number, Buffer>, Buffer[]>();

  /** @param size bytes of a cluster */
  constructor(storage: Storage, size: number) {
    this.#storage = storage;
    this.#size = size;
    this.#pool = new BufferPool(Math.max(MAX_READ, size), 2 * IN_FLIGHT);
  }

  /** The clusters at these offsets, by offset; what lies past the end is zero. */
  async read(offsets: Iterable<number>): Promise<Map<number, Buffer>> {
    const order = [...new Set(offsets)].sort((a, b) => a - b);
    const read = new Map<number, Buffer>();
    this.#taken.set(read, []);
    const window = new Window(IN_FLIGHT);
    try {
      for (let index = 0; index < order.length; ) {
        const first = index;
        index += 1;
        while (index < order.length && this.#joins(order[first], order[index - 1], order[index])) index += 1;
        const run = order.slice(first, index);
        await window.enter(() => this.#readRun(run, read));
      }
      await window.drain();
    } finally {
      await window.settle();
    }
    return read;
  }

  /** The memory of what was read may be used again: an optimisation that nobody must do. */
  release(read: Map<number, Buffer>): void {
    for (const buffer of this.#taken.get(read) ?? []) this.#pool.give(buffer);
    this.#taken.delete(read);
  }

  #joins(first: number, last: number, next: number): boolean {
    return next - (last + this.#size) <= READ_GAP && next + this.#size - first <= MAX_READ;
  }

  async #readRun(run: number[], into: Map<number, Buffer>): Promise<void> {
    const [first] = run;
    const bytes = this.#buffer(run[run.length - 1] + this.#size - first, into);
    await readPadded(this.#storage, first, bytes);
    for (const offset of run) into.set(offset, bytes.subarray(offset - first, offset - first + this.#size));
  }

  #buffer(length: number, into: Map<number, Buffer>): Buffer {
    if (length < MIN_POOLED) return Buffer.allocUnsafeSlow(length);
    const buffer = this.#pool.take();
    this.#taken.get(into)?.push(buffer);
    return buffer.subarray(0, length);
  }
}

/** Batches of `items`, each with what is loaded for it while the one before it is worked on. */
export async function* readAhead<T, R>(
  items: Iterable<T>,
  { most, load }: { most: number; load: (batch: readonly T[]) => Promise<R> },
): AsyncGenerator<{ batch: T[]; loaded: R }> {
  let ahead: { batch: T[]; loading: Promise<R> } | null = null;
  try {
    for (const batch of batchesOf(items, most)) {
      const loading = load(batch);
      // Whoever waits for it is told of its failure; until then nobody shall call it unhandled.
      loading.catch(() => {});
      const ready = ahead;
      ahead = { batch, loading };
      if (ready !== null) yield { batch: ready.batch, loaded: await ready.loading };
    }
    if (ahead !== null) yield { batch: ahead.batch, loaded: await ahead.loading };
  } finally {
    // Nothing stays in flight.
    await ahead?.loading.catch(() => {});
  }
}

function* batchesOf<T>(items: Iterable<T>, most: number): Generator<T[]> {
  let batch: T[] = [];
  for (const item of items) {
    batch.push(item);
    if (batch.length < most) continue;
    yield batch;
    batch = [];
  }
  if (batch.length > 0) yield batch;
}
