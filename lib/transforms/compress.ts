import { type Extent, ExtentBatch, sliceExtent } from '../core/extent.ts';
import { ParallelStage } from '../core/streams.ts';

/** Compresses one unit into a target's form; null where that would not be smaller. A Target's `compressor` is one. */
export interface UnitCompressor {
  /** Guest bytes of one unit. */
  readonly unit: number;
  compress(plain: Buffer): Promise<Buffer | null>;
}

export interface CompressOptions {
  /** Batches at work at the most; default 4. */
  parallel?: number;
  /** Batches leave in guest order (default), or as they finish. */
  ordered?: boolean;
  /** Guest size in bytes: a short unit is compressed only at the disk's end. Absent: whole units only. */
  size?: number;
}

/**
 * Compresses loaded data unit by unit in the thread pool. What does not get smaller, and data that does not begin at
 * a unit's start (put `align()` before this), stays as it is.
 */
export function compress(compressor: UnitCompressor, options: CompressOptions = {}): Compress {
  return new Compress(compressor, options);
}

/** See `compress`. */
export class Compress extends ParallelStage<ExtentBatch> {
  readonly #compressor: UnitCompressor;
  readonly #size: number | undefined;

  constructor(compressor: UnitCompressor, options: CompressOptions) {
    super({ tasks: options.parallel ?? 4, ordered: options.ordered });
    this.#compressor = compressor;
    this.#size = options.size;
  }

  protected override jobs(batch: ExtentBatch): Iterable<ExtentBatch> {
    return [batch];
  }

  protected override weigh(): number {
    return 0;
  }

  protected override async work(batch: ExtentBatch): Promise<ExtentBatch> {
    const results: (Extent | Promise<Extent>)[] = [];
    for (const each of batch) {
      if (each.kind !== 'data' || each.payload === null || each.packed) results.push(each);
      else for (const unit of this.#units(each)) results.push(this.#pack(unit));
    }
    const settled = await Promise.allSettled(results);
    const extents = settled.map((result) => {
      if (result.status === 'rejected') throw result.reason;
      return result.value;
    });
    if (extents.some(({ payload, packed }) => payload !== null && !packed)) return batch.with(extents);
    batch.release();
    return new ExtentBatch(extents);
  }

  *#units(from: Extent): Iterable<Extent> {
    const { unit } = this.#compressor;
    const end = from.offset + from.length;
    for (let at = from.offset; at < end; ) {
      const stop = Math.min(end, (Math.floor(at / unit) + 1) * unit);
      yield sliceExtent(from, at, stop - at);
      at = stop;
    }
  }

  /** A unit that is compressed replaces the whole unit: no part of it may belong to another extent. */
  #isWhole({ offset, length }: Extent): boolean {
    const { unit } = this.#compressor;
    return offset % unit === 0 && (length === unit || offset + length === this.#size);
  }

  async #pack(plain: Extent): Promise<Extent> {
    if (!this.#isWhole(plain)) return plain;
    const packed = await this.#compressor.compress(plain.payload as Buffer);
    return packed === null ? plain : { ...plain, payload: packed, packed: true };
  }
}
