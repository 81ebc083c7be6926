import { Readable } from 'streamx';
import { ImageError } from '../core/errors.ts';
import { type Extent, ExtentBatch } from '../core/extent.ts';
import { BATCH_STREAM, type BatchReadable } from '../core/streams.ts';

/** What can be walked: a Source, a chain of layers, a concatenation. */
export interface Mapped {
  readonly name: string;
  /** Guest size in bytes. */
  readonly size: number;
  /** See Source.map. */
  map(offset: number, length: number): Promise<Extent[]>;
}

export interface ExtentStreamOptions {
  /** First guest byte; default 0. */
  offset?: number;
  /** Guest bytes; default: to the end. */
  length?: number;
}

// A map call answers for as much as it likes; how much it is asked for follows what came back, so that a terabyte
// of nothing is a few calls and a badly fragmented gigabyte is many.
const FIRST_ASK = 256 * 1024 * 1024;
const FEW = 256;
const MANY = 8192;
/** Milliseconds after which a walk lets the event loop turn. */
const TURN_MS = 20;

/** The extents of a range as batches, in guest order, one `map` call each. Throws an ImageError. */
export async function* walkExtents(source: Mapped, options: ExtentStreamOptions = {}): AsyncGenerator<ExtentBatch> {
  const start = options.offset ?? 0;
  const end = Math.min(source.size, options.length === undefined ? source.size : start + options.length);
  let ask = FIRST_ASK;
  let breath = performance.now();
  for (let at = start; at < end; ) {
    // Maps may come from memory or system calls alone: signals and timers must get a turn all the same.
    if (performance.now() - breath > TURN_MS) {
      await new Promise((resolve) => setImmediate(resolve));
      breath = performance.now();
    }
    const extents = await source.map(at, Math.min(ask, end - at));
    const batch = new ExtentBatch(extents);
    if (extents.length === 0 || batch.offset !== at || batch.end <= at || batch.end > end) {
      throw new ImageError('corrupt', `Map of '${source.name}' makes no progress at offset ${at}`, { offset: at });
    }
    at = batch.end;
    if (extents.length < FEW) ask *= 2;
    else if (extents.length > MANY) ask = Math.max(1 << 20, ask / 2);
    yield batch;
  }
}

/** `walkExtents` as a stream: where every pipeline begins. Nothing is loaded: see `load()`. */
export function extentStream(source: Mapped, options: ExtentStreamOptions = {}): BatchReadable {
  const walk = walkExtents(source, options);
  return new Readable({
    ...BATCH_STREAM,
    read(callback) {
      walk.next().then(
        ({ done, value }) => {
          this.push(done ? null : value);
          callback(null);
        },
        (error) => callback(error),
      );
    },
  }) as Readable as BatchReadable;
}
