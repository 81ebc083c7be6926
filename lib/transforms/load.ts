import { type Extent, ExtentBatch, sliceExtent } from '../core/extent.ts';
import { BufferPool } from '../core/pool.ts';
import { BATCH_BYTES, ParallelStage } from '../core/streams.ts';
import { tracePoint } from '../core/trace.ts';
import { type OnUnreadable, readExtents } from './reading.ts';

export interface LoadOptions {
  /** Reads in flight at the most; default 4. */
  parallel?: number;
  /** Batches leave in guest order (default), or as their reads finish. */
  ordered?: boolean;
  /** Batches end at multiples of this many bytes: the target's allocation unit, say. Default 64 KiB. */
  unit?: number;
  /**
   * Payloads come from a pool, and go back to it when the last stage releases the batch: whoever keeps a payload must then
   * not release. Default false: every payload is a buffer of its own.
   */
  pooled?: boolean;
  /** Sectors that cannot be read become zeros, and this is told; absent: the stage fails. */
  onUnreadable?: OnUnreadable;
}

/** What one read job covers: consecutive extents, and how many bytes of them must be loaded. */
interface Job {
  extents: Extent[];
  bytes: number;
  /** Gives back the buffer of the batch that came in loaded, if it did. */
  carrier: ExtentBatch | null;
}

const traceLoad = tracePoint('load');

/**
 * Loads the payloads of data extents: neighbours on the host in one read, runs of compressed clusters
 * together, about 2 MiB to a batch, several in flight. Extents that carry a payload pass unchanged.
 * Fails with an ImageError that names the guest offset.
 */
export function load(options: LoadOptions = {}): Load {
  return new Load(options);
}

/** See `load`. */
export class Load extends ParallelStage<Job> {
  readonly #unit: number;
  readonly #limit: number;
  readonly #pool: BufferPool | null;
  readonly #onUnreadable: OnUnreadable | undefined;

  constructor(options: LoadOptions) {
    super({ tasks: options.parallel ?? 4, ordered: options.ordered });
    this.#unit = options.unit ?? 64 * 1024;
    this.#limit = Math.max(this.#unit, Math.floor(BATCH_BYTES / this.#unit) * this.#unit);
    this.#pool = options.pooled ? new BufferPool(this.#limit, 32) : null;
    this.#onUnreadable = options.onUnreadable;
  }

  protected override *jobs(batch: ExtentBatch): Iterable<Job> {
    if (!batch.extents.some(wantsLoading)) {
      yield { extents: batch.extents, bytes: 0, carrier: batch };
      return;
    }
    let job: Job = { extents: [], bytes: 0, carrier: null };
    for (const each of batch) {
      for (let rest: Extent | null = each; rest !== null; ) {
        const cut: number = wantsLoading(rest) ? this.#cut(rest, this.#limit - job.bytes) : rest.length;
        if (cut > 0) {
          const part = sliceExtent(rest, rest.offset, cut);
          job.extents.push(part);
          if (wantsLoading(part)) job.bytes += cut;
          rest = cut === rest.length ? null : sliceExtent(rest, rest.offset + cut, rest.length - cut);
        }
        if (rest !== null || job.bytes >= this.#limit) {
          yield job;
          job = { extents: [], bytes: 0, carrier: null };
        }
      }
    }
    if (job.extents.length > 0) yield job;
  }

  /** How much of an extent still fits into a job, ending at a unit's boundary where it must be cut; 0: nothing. */
  #cut(from: Extent, room: number): number {
    if (from.length <= room) return from.length;
    const boundary = Math.floor((from.offset + room) / this.#unit) * this.#unit;
    return Math.max(0, boundary - from.offset);
  }

  protected override weigh(job: Job): number {
    return job.bytes;
  }

  protected override async work({ extents, bytes, carrier }: Job): Promise<ExtentBatch> {
    if (carrier !== null) return carrier;
    if (bytes === 0) return new ExtentBatch(extents);
    if (traceLoad.enabled) traceLoad.emit({ offset: extents[0].offset, extents: extents.length, bytes });
    const buffer = this.#take(bytes);
    const wanted = extents.filter(wantsLoading);
    const parts = await readExtents(wanted, buffer.subarray(0, bytes), this.#onUnreadable);
    let next = 0;
    const loaded = extents.map((each) => {
      if (!wantsLoading(each)) return each;
      next += 1;
      return { ...each, payload: parts[next - 1] };
    });
    const pool = this.#pool;
    return new ExtentBatch(loaded, pool === null ? null : () => pool.give(buffer));
  }

  /** A pooled buffer, but not for crumbs: a thousand waiting batches of 4 KiB shall not hold a GiB. */
  #take(bytes: number): Buffer {
    if (this.#pool === null || bytes < this.#limit / 8) return Buffer.allocUnsafeSlow(bytes);
    return this.#pool.take();
  }
}

function wantsLoading(each: Extent): boolean {
  return each.kind === 'data' && each.payload === null;
}
