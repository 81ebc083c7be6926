import pump from 'pump';
import { Duplex, Readable, Transform } from 'streamx';
import { ImageError } from './errors.ts';
import { batchWeight, type ExtentBatch } from './extent.ts';
import { Window } from './window.ts';

/** Bytes of payload in one batch at the most, as the stages of this library make them: the best size for I/O. */
export const BATCH_BYTES = 2 << 20;

/**
 * What every stage of batches passes to streamx. The mark is in bytes: one batch with a payload is enough to wait, and
 * of those without (which weigh 1) four. What shall be in flight beyond that is a parallel stage's window.
 */
export const BATCH_STREAM = {
  highWaterMark: 4,
  byteLength: (batch: unknown) => batchWeight(batch as ExtentBatch),
} as const;

/** A streamx Readable of batches. */
export interface BatchReadable extends Omit<Readable, typeof Symbol.asyncIterator>, AsyncIterable<ExtentBatch> {}

type AnyStream = NodeJS.ReadableStream | NodeJS.WritableStream | NodeJS.ReadWriteStream;

/** A stage of a pipeline: a streamx stream, a Node stream in object mode, or (first) any async iterable. */
export type Stage =
  | { pipe(destination: never): unknown; destroy?(error?: Error | null): void }
  | { write(chunk: never): unknown; destroy?(error?: Error | null): void }
  | AsyncIterable<ExtentBatch>;

export interface PipelineOptions {
  /** Destroys every stage; the promise then rejects with an ImageError of kind `aborted`. */
  signal?: AbortSignal;
}

/** An AbortSignal's reason as the error that a verb rejects with. */
export function abortError(signal: AbortSignal): ImageError {
  return new ImageError('aborted', 'Operation aborted', { cause: signal.reason });
}

/** Throws the `aborted` ImageError if the signal has fired. */
export function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw abortError(signal);
}

/**
 * Joins stages, streamx and Node ones in any mix, and resolves when the last one has finished. Where any fails, all
 * are destroyed, and the promise rejects with the first error once each streamx stage has closed: nothing is
 * then in flight. The last argument may be options. What the last stage puts out, if it does, is dropped.
 */
export async function pipeline(...args: [Stage, ...(Stage | PipelineOptions)[]]): Promise<void> {
  const last = args[args.length - 1];
  const options: PipelineOptions = isStage(last) ? {} : (last as PipelineOptions);
  const stages = (isStage(last) ? args : args.slice(0, -1)) as Stage[];
  const streams = stages.map(toStream);
  if (streams.length < 2) throw new ImageError('invalid', 'A pipeline needs two stages at the least');
  await run(streams, options.signal);
}

function isStage(value: unknown): boolean {
  const stage = value as { pipe?: unknown; write?: unknown; [Symbol.asyncIterator]?: unknown };
  return (
    typeof stage.pipe === 'function' ||
    typeof stage.write === 'function' ||
    typeof stage[Symbol.asyncIterator] === 'function'
  );
}

function toStream(stage: Stage): Duplex {
  if ('pipe' in stage || 'write' in stage) return stage as unknown as Duplex;
  return readableFrom(stage) as unknown as Duplex;
}

async function run(streams: Duplex[], signal: AbortSignal | undefined): Promise<void> {
  const closed = streams.filter(isStreamx).map(untilClosed);
  let failure: Error | null = null;
  for (const stream of streams) {
    stream.on('error', (error: Error) => {
      failure ??= error;
    });
  }
  const abort = () => {
    failure ??= abortError(signal as AbortSignal);
    for (const stream of streams) stream.destroy(failure);
  };
  signal?.addEventListener('abort', abort, { once: true });
  const done = new Promise<Error | undefined>((resolve) => pump(streams as unknown as AnyStream[], resolve));
  drainEnd(streams[streams.length - 1]);
  if (signal?.aborted) abort();
  const error = await done;
  signal?.removeEventListener('abort', abort);
  if (error === undefined && failure === null) return;
  await Promise.all(closed);
  throw failure ?? error;
}

/** Only streamx promises a `close` to every stream that is destroyed; Node's may be told not to. */
function isStreamx(stream: unknown): boolean {
  return typeof (stream as { _duplexState?: unknown })._duplexState === 'number';
}

function untilClosed(stream: Duplex): Promise<void> {
  if (stream.destroyed) return Promise.resolve();
  return new Promise((resolve) => stream.once('close', () => resolve()));
}

/** A transform at the end (`hash()`, say) would wait for a reader for ever. */
function drainEnd(stream: Duplex): void {
  if (isStreamx(stream) && stream.readable) stream.resume();
}

/** Batches from an iterable as a stream; destroying it ends the iteration. */
export function readableFrom(batches: AsyncIterable<ExtentBatch>): BatchReadable {
  const iterator = batches[Symbol.asyncIterator]();
  let returned: Promise<unknown> | null = null;
  return new Readable({
    ...BATCH_STREAM,
    read(callback) {
      iterator.next().then(
        ({ done, value }) => {
          this.push(done ? null : value);
          callback(null);
        },
        (error) => callback(error),
      );
    },
    predestroy() {
      // return() of a generator waits for the next() in progress by itself.
      returned = iterator.return?.().catch(() => {}) ?? null;
    },
    destroy(callback) {
      Promise.resolve(returned).then(() => callback(null));
    },
  }) as Readable as BatchReadable;
}

export interface MapBatchesOptions {
  /** Called when the input has ended; what it returns is put out last. */
  flush?: () => ExtentBatch | null;
}

/**
 * A stage from a function: a batch in, a batch (or null: nothing) out. The function may be asynchronous;
 * one batch is at work at a time.
 */
export function mapBatches(
  map: (batch: ExtentBatch) => ExtentBatch | null | Promise<ExtentBatch | null>,
  options: MapBatchesOptions = {},
): Transform {
  const { flush } = options;
  return new Transform({
    ...BATCH_STREAM,
    transform(batch, callback) {
      let result: ReturnType<typeof map>;
      try {
        result = map(batch as ExtentBatch);
      } catch (error) {
        return callback(error as Error, null);
      }
      if (!(result instanceof Promise)) return callback(null, result);
      result.then(
        (out) => callback(null, out),
        (error) => callback(error, null),
      );
    },
    flush(callback) {
      try {
        const rest = flush?.() ?? null;
        if (rest !== null) this.push(rest);
        callback(null);
      } catch (error) {
        callback(error as Error);
      }
    },
  });
}

type Done = (error: Error | null) => void;

export interface ParallelOptions {
  /** Jobs in flight at the most. */
  tasks?: number;
  /** Bytes in flight at the most, by `weigh`. */
  bytes?: number;
  /** Results leave in the order of the input (default), or as they finish. */
  ordered?: boolean;
}

/**
 * A stage that works on many jobs at once, within a window. It accepts early: a batch counts as taken when its jobs have
 * started. New jobs wait while the reader is behind, so that memory stays within window plus mark. A failed job
 * destroys the stage at once; destruction waits for the jobs in flight.
 */
export abstract class ParallelStage<Job> extends Duplex {
  readonly #window: Window;
  readonly #ordered: boolean;
  #tail: Promise<void> = Promise.resolve();
  #wake: (() => void) | null = null;

  constructor(options: ParallelOptions = {}) {
    super({ ...BATCH_STREAM });
    this.#window = new Window(options.tasks ?? 4, options.bytes);
    this.#ordered = options.ordered ?? true;
  }

  /** Cuts a batch into jobs; lazily, so that a batch of a terabyte is no long list. */
  protected abstract jobs(batch: ExtentBatch): Iterable<Job>;
  /** Does one job; null puts nothing out. Never cancelled: it must end by itself. */
  protected abstract work(job: Job): Promise<ExtentBatch | null>;
  /** Bytes that a job holds while in flight. */
  protected abstract weigh(job: Job): number;
  /** What remains when the input has ended. */
  protected rest(): Iterable<Job> {
    return [];
  }

  override _write(batch: unknown, callback: Done): void {
    this.#start(this.jobs(batch as ExtentBatch)).then(() => callback(null), callback);
  }

  override _read(callback: Done): void {
    this.#awake();
    callback(null);
  }

  override _final(callback: Done): void {
    this.#start(this.rest())
      .then(() => this.#window.drain())
      .then(() => {
        this.push(null);
        callback(null);
      }, callback);
  }

  override _predestroy(): void {
    this.#awake();
  }

  override _destroy(callback: Done): void {
    this.#window.settle().then(() => callback(null));
  }

  async #start(jobs: Iterable<Job>): Promise<void> {
    for (const job of jobs) {
      while (Readable.isBackpressured(this) && !this.destroying) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
      if (this.destroying) return;
      await this.#window.enter(async () => {
        if (!this.destroying) await this.#run(job);
      }, this.weigh(job));
    }
  }

  #awake(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }

  #run(job: Job): Promise<void> {
    const before = this.#tail;
    // The failure is acted on at once: earlier jobs that wait for a slow device need not end first.
    const result = this.work(job).catch((error: Error) => {
      this.destroy(error);
      return null;
    });
    const turn = (async () => {
      const out = await result;
      if (this.#ordered) await before;
      if (out === null) return;
      if (this.destroying) out.release();
      else this.push(out);
    })();
    this.#tail = turn;
    return turn;
  }
}
