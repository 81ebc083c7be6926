import { Window } from '../../../core/window.ts';
import { readPadded, type Storage } from '../../../storage/storage.ts';

/** Clusters that lie closer than this are read together, with what is between them. */
const READ_GAP = 64 * 1024;
const MAX_READ = 1024 * 1024;
/** Clusters of one batch. */
export const BATCH_BYTES = 2 * 1024 * 1024;
const IN_FLIGHT = 4;

/** Reads whole clusters (tables, refcount blocks) in few large pieces, by offset; what lies past the end is zero. */
export async function readClusters(
  storage: Storage,
  offsets: Iterable<number>,
  size: number,
): Promise<Map<number, Buffer>> {
  const order = [...new Set(offsets)].sort((a, b) => a - b);
  const read = new Map<number, Buffer>();
  const window = new Window(IN_FLIGHT);
  try {
    for (let index = 0; index < order.length; ) {
      const first = order[index];
      let next = index + 1;
      while (next < order.length && joins(first, order[next - 1] + size, order[next], size)) next += 1;
      const run = order.slice(index, next);
      index = next;
      await window.enter(() => readRun(storage, run, size, read));
    }
    await window.drain();
  } finally {
    await window.settle();
  }
  return read;
}

function joins(first: number, end: number, next: number, size: number): boolean {
  return next - end <= READ_GAP && next + size - first <= MAX_READ;
}

async function readRun(storage: Storage, run: number[], size: number, into: Map<number, Buffer>): Promise<void> {
  const [first] = run;
  const bytes = Buffer.allocUnsafeSlow(run[run.length - 1] + size - first);
  await readPadded(storage, first, bytes);
  for (const offset of run) into.set(offset, bytes.subarray(offset - first, offset - first + size));
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
