import { fromSystemError, ImageError } from '../core/errors.ts';
import { Histogram } from '../core/histogram.ts';
import { throwIfAborted } from '../core/streams.ts';
import { tracePoint } from '../core/trace.ts';
import { drivers as allDrivers } from '../formats/index.ts';
import { openTarget } from '../formats/open-target.ts';
import { openImage } from '../sources/open.ts';
import type { CacheMode } from '../storage/storage.ts';
import { nodeOf } from './node.ts';
import type { ImageReference, VerbOptions } from './reference.ts';

export interface BenchOptions extends VerbOptions {
  image: ImageReference;
  /** Requests; default 75000. */
  count?: number;
  /** Requests in flight; default 64. */
  depth?: number;
  /** Bytes of a request; default 4096. */
  bufferSize?: number;
  /** Bytes from the start of one request to that of the next; 0 or absent: `bufferSize`. */
  step?: number;
  /** Where the first one begins; default 0. After the disk's end it goes on at its start. */
  offset?: number;
  /** Write instead of reading. */
  write?: boolean;
  /** The byte that is written; default 0. */
  pattern?: number;
  /** Flush after so many writes; 0 or absent: never. Not below `depth`. */
  flushInterval?: number;
  /** Wait for all requests before each flush (default), or flush beside them. */
  drain?: boolean;
  cache?: CacheMode;
  /** The image is open, and the first request goes out now. */
  onStart?: () => void;
}

/** Times in seconds. */
export interface BenchResult {
  requests: number;
  bytes: number;
  seconds: number;
  /** Of single requests. */
  latency: { min: number; mean: number; max: number; p50: number; p90: number; p99: number; p999: number };
}

/** The operation of an error of a request, as opposed to those of opening. */
export const REQUEST_OPERATION = 'bench request';

const NANOSECONDS = 1e9;

const traceBench = tracePoint('bench_start');

/** What the requests go to. */
interface Subject {
  size: number;
  request(offset: number, buffer: Buffer): Promise<void>;
  flush(): Promise<void>;
  close(): Promise<void>;
}

/** Times many equal requests to an image: `qemu-img bench`. Rejects with an ImageError. */
export async function bench(options: BenchOptions): Promise<BenchResult> {
  const { flushInterval = 0, depth = 64 } = options;
  if (depth < 1) throw new ImageError('invalid', 'Invalid queue depth specified');
  if (flushInterval > 0 && flushInterval < depth) {
    throw new ImageError('invalid', "Flush interval can't be smaller than depth");
  }
  const subject = options.write === true ? await forWriting(options) : await forReading(options);
  try {
    options.onStart?.();
    return await new Bench(subject, options).run();
  } finally {
    await subject.close();
  }
}

async function forReading({
  image,
  drivers = allDrivers(),
  implicit,
  secrets,
  forceShare,
  cache,
}: BenchOptions): Promise<Subject> {
  const opened = await openImage(nodeOf(image), { drivers, implicit, secrets, forceShare, cache });
  const { chain } = opened;
  return {
    size: chain.size,
    request: (offset, buffer) => chain.read(offset, buffer),
    flush: async () => {},
    close: () => opened.close(),
  };
}

async function forWriting({ image, drivers, implicit, secrets, cache }: BenchOptions): Promise<Subject> {
  const target = await openTarget(nodeOf(image), { drivers, implicit, secrets, cache });
  return {
    size: target.size,
    request: (offset, buffer) => target.write(offset, buffer),
    flush: () => target.flush(),
    close: () => target.close(),
  };
}

class Bench {
  readonly #subject: Subject;
  readonly #options: Required<
    Pick<BenchOptions, 'count' | 'depth' | 'bufferSize' | 'step' | 'pattern' | 'flushInterval' | 'drain'>
  >;
  readonly #signal: AbortSignal | undefined;
  readonly #latencies = new Histogram();
  #offset: number;
  #started = 0;
  #inFlight = 0;
  #flushing: Promise<void> | null = null;
  #waiting: (() => void)[] = [];

  constructor(subject: Subject, options: BenchOptions) {
    const { count = 75_000, depth = 64, bufferSize = 4096, pattern = 0, flushInterval = 0, drain = true } = options;
    const step = options.step || bufferSize;
    this.#subject = subject;
    this.#options = { count, depth, bufferSize, step, pattern, flushInterval, drain };
    this.#signal = options.signal;
    this.#offset = options.offset ?? 0;
  }

  async run(): Promise<BenchResult> {
    const { count, depth, bufferSize } = this.#options;
    if (traceBench.enabled) traceBench.emit({ count, depth, bufferSize });
    const start = process.hrtime.bigint();
    const results = await Promise.allSettled(Array.from({ length: Math.min(depth, count) }, () => this.#worker()));
    for (const result of results) if (result.status === 'rejected') throw failedRequest(result.reason);
    await this.#flushing;
    const seconds = Number(process.hrtime.bigint() - start) / NANOSECONDS;
    const times = this.#latencies;
    const at = (share: number) => times.quantile(share) / NANOSECONDS;
    return {
      requests: count,
      bytes: count * bufferSize,
      seconds,
      latency: {
        min: times.min / NANOSECONDS,
        mean: times.mean / NANOSECONDS,
        max: times.max / NANOSECONDS,
        ...{ p50: at(0.5), p90: at(0.9), p99: at(0.99), p999: at(0.999) },
      },
    };
  }

  /** One of the requests in flight, again and again. */
  async #worker(): Promise<void> {
    const { count, bufferSize, pattern } = this.#options;
    const buffer = Buffer.alloc(bufferSize, pattern);
    while (this.#started < count) {
      throwIfAborted(this.#signal);
      if (this.#options.drain && this.#flushing !== null) await this.#flushing;
      if (this.#started >= count) return;
      this.#started += 1;
      const offset = this.#next();
      const isFlushed = this.#options.flushInterval > 0 && this.#started % this.#options.flushInterval === 0;
      const before = process.hrtime.bigint();
      this.#inFlight += 1;
      try {
        const work = this.#request(offset, buffer);
        if (isFlushed) this.#flush(work);
        await work;
      } catch (error) {
        // The others stop at their next look.
        this.#started = count;
        throw error;
      } finally {
        this.#inFlight -= 1;
        if (this.#inFlight === 0) for (const wake of this.#waiting.splice(0)) wake();
      }
      this.#latencies.add(Number(process.hrtime.bigint() - before));
    }
  }

  async #request(offset: number, buffer: Buffer): Promise<void> {
    if (offset + buffer.length > this.#subject.size) {
      throw fromSystemError(Object.assign(new Error('past the end of the disk'), { code: 'EIO' }), { offset });
    }
    if (buffer.length > 0) await this.#subject.request(offset, buffer);
  }

  #next(): number {
    const offset = this.#offset;
    this.#offset = this.#subject.size === 0 ? 0 : (offset + this.#options.step) % this.#subject.size;
    return offset;
  }

  /** After the request that begins now and, unless told otherwise, all that are in flight. */
  #flush(last: Promise<void>): void {
    const before = this.#flushing;
    const flushing = (async () => {
      await before;
      await last.catch(() => {});
      if (this.#options.drain && this.#inFlight > 0) await new Promise<void>((wake) => this.#waiting.push(wake));
      await this.#subject.flush();
    })();
    this.#flushing = flushing;
    // Whoever waits for it is told of a failure; that nobody may be waiting yet is no reason to end the process.
    flushing
      .then(() => {
        if (this.#flushing === flushing) this.#flushing = null;
      })
      .catch(() => {});
  }
}

function failedRequest(error: unknown): unknown {
  if (!(error instanceof ImageError) || error.kind === 'aborted') return error;
  const { kind, message, file, offset, code } = error;
  const context = { file, offset, code, operation: REQUEST_OPERATION, cause: error };
  return new ImageError(kind, `Failed request: ${message}`, context);
}
