import { type Extent, ExtentBatch, extent, pushExtent, sliceExtent } from '../core/extent.ts';
import { BufferPool, isZero } from '../core/pool.ts';
import { BATCH_BYTES, ParallelStage } from '../core/streams.ts';

/** What is compared with. */
export interface ComparedDisk {
  readonly size: number;
  read(offset: number, buffer: Buffer): Promise<void>;
}

export interface KeepDifferencesOptions {
  /** Differences are whole units of this many bytes: the target's allocation unit. */
  unit: number;
  /** Reads in flight at the most; default 2. */
  parallel?: number;
}

/** Neighbouring extents that are not `unallocated`, or one that is. */
interface Job {
  extents: Extent[];
  length: number;
  release: (() => void) | null;
}

/**
 * Leaves of loaded data and of zeros the units that the other disk says otherwise, and makes the rest `unallocated`. What the
 * other disk does not reach is zeros there. Units that hold zeros alone come out as zeros. Fails with an ImageError.
 */
export function keepDifferences(other: ComparedDisk, options: KeepDifferencesOptions): KeepDifferences {
  return new KeepDifferences(other, options);
}

/** See `keepDifferences`. */
export class KeepDifferences extends ParallelStage<Job> {
  readonly #other: ComparedDisk;
  readonly #unit: number;
  readonly #step: number;
  readonly #pool: BufferPool;

  constructor(other: ComparedDisk, { unit, parallel = 2 }: KeepDifferencesOptions) {
    super({ tasks: parallel });
    this.#other = other;
    this.#unit = unit;
    this.#step = Math.max(unit, BATCH_BYTES);
    this.#pool = new BufferPool(this.#step, parallel + 2);
  }

  protected override *jobs(batch: ExtentBatch): Iterable<Job> {
    let left = 1;
    const release = () => {
      left -= 1;
      if (left === 0) batch.release();
    };
    for (const job of this.#cut(batch)) {
      if (!job.extents.some(({ payload }) => payload !== null)) {
        yield job;
        continue;
      }
      left += 1;
      yield { ...job, release };
    }
    release();
  }

  *#cut(batch: ExtentBatch): Iterable<Job> {
    let job: Job = { extents: [], length: 0, release: null };
    for (const each of batch) {
      const flushed = each.kind === 'unallocated' || (job.length > 0 && endOf(job.extents) !== each.offset);
      if (flushed && job.length > 0) {
        yield job;
        job = { extents: [], length: 0, release: null };
      }
      if (each.kind === 'unallocated') {
        yield { extents: [each], length: 0, release: null };
        continue;
      }
      for (let at = each.offset, end = at + each.length; at < end; ) {
        // Jobs end where units do.
        const start = job.length > 0 ? job.extents[0].offset : at;
        const stop = Math.min(end, (Math.floor(start / this.#step) + 1) * this.#step);
        job.extents.push(sliceExtent(each, at, stop - at));
        job.length += stop - at;
        at = stop;
        if (stop % this.#step !== 0) continue;
        yield job;
        job = { extents: [], length: 0, release: null };
      }
    }
    if (job.length > 0) yield job;
  }

  protected override weigh(job: Job): number {
    return job.length;
  }

  protected override async work({ extents, length, release }: Job): Promise<ExtentBatch> {
    if (length === 0) return new ExtentBatch(extents, release);
    const buffer = this.#pool.take();
    const start = extents[0].offset;
    const theirs = buffer.subarray(0, length);
    const there = Math.max(0, Math.min(length, this.#other.size - start));
    if (there > 0) await this.#other.read(start, theirs.subarray(0, there));
    theirs.fill(0, there);
    const out: Extent[] = [];
    for (const each of extents) this.#compare(each, theirs.subarray(each.offset - start), out);
    this.#pool.give(buffer);
    return new ExtentBatch(out, release);
  }

  #compare(each: Extent, theirs: Buffer, out: Extent[]): void {
    const { offset, length, payload } = each;
    const end = offset + length;
    // Most often all of it is the same.
    const whole = same(payload, theirs, 0, length);
    for (let at = offset; at < end; ) {
      const stop = whole ? end : Math.min(end, (Math.floor(at / this.#unit) + 1) * this.#unit);
      const [from, to] = [at - offset, stop - offset];
      if (whole || same(payload, theirs, from, to)) pushExtent(out, extent(at, stop - at, 'unallocated'));
      else if (payload === null || isZero(payload, from, to)) pushExtent(out, extent(at, stop - at, 'zero'));
      else pushData(out, each, at, stop - at);
      at = stop;
    }
  }
}

function endOf(extents: readonly Extent[]): number {
  const last = extents[extents.length - 1];
  return last.offset + last.length;
}

function same(ours: Buffer | null, theirs: Buffer, from: number, to: number): boolean {
  if (ours === null) return isZero(theirs, from, to);
  return ours.compare(theirs, from, to, from, to) === 0;
}

/** Neighbouring units of one payload stay one extent, so that they are written at once. */
function pushData(out: Extent[], from: Extent, offset: number, length: number): void {
  const last = out.at(-1);
  if (last?.kind === 'data' && last.offset >= from.offset && last.offset + last.length === offset) {
    out[out.length - 1] = sliceExtent(from, last.offset, last.length + length);
  } else out.push(sliceExtent(from, offset, length));
}
