import { type Extent, ExtentBatch, extent } from '../core/extent.ts';
import { BATCH_BYTES, ParallelStage } from '../core/streams.ts';

export interface FillZerosOptions {
  /** `unallocated` means "leave to the backing file": no zeros for it. Default false. */
  keepUnallocated?: boolean;
}

/** Shared by all zero payloads: nobody may write to a payload. */
let zeros: Buffer | null = null;

/**
 * Turns what reads as zeros into data of zeros: what `-S 0` asks for, an output with all its space allocated. Puts out
 * batches of 1 MiB at the most for it.
 */
export function fillZeros(options: FillZerosOptions = {}): FillZeros {
  return new FillZeros(options);
}

/** See `fillZeros`. */
export class FillZeros extends ParallelStage<ExtentBatch> {
  readonly #keepUnallocated: boolean;

  constructor({ keepUnallocated = false }: FillZerosOptions) {
    super({ tasks: 1 });
    this.#keepUnallocated = keepUnallocated;
  }

  #stays({ kind }: Extent): boolean {
    return kind === 'data' || (kind === 'unallocated' && this.#keepUnallocated);
  }

  protected override *jobs(batch: ExtentBatch): Iterable<ExtentBatch> {
    if (batch.extents.every((each) => this.#stays(each))) {
      yield batch;
      return;
    }
    // The buffers of a batch that is cut up are left to the garbage collector: who is last cannot be told.
    for (const each of batch) {
      if (this.#stays(each)) yield new ExtentBatch([each]);
      else for (const piece of pieces(each)) yield new ExtentBatch([piece]);
    }
  }

  protected override weigh(): number {
    return 0;
  }

  protected override async work(batch: ExtentBatch): Promise<ExtentBatch> {
    return batch;
  }
}

function* pieces(from: Extent): Iterable<Extent> {
  zeros ??= Buffer.alloc(BATCH_BYTES);
  const end = from.offset + from.length;
  for (let at = from.offset; at < end; ) {
    const stop = Math.min(end, (Math.floor(at / BATCH_BYTES) + 1) * BATCH_BYTES);
    const piece = extent(at, stop - at, 'data');
    piece.payload = zeros.subarray(0, piece.length);
    yield piece;
    at = stop;
  }
}
