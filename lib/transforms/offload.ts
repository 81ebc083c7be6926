import { type ByteReader, type Extent, ExtentBatch, sliceExtent } from '../core/extent.ts';
import { ParallelStage } from '../core/streams.ts';

/** A target that can take bytes straight from another file. */
export interface CopyTarget {
  /**
   * Copies plain bytes inside the kernel to guest offset `offset`; returns how many were copied,
   * 0 where it can't be done.
   */
  copyFrom?(offset: number, host: ByteReader, hostOffset: number, length: number): Promise<number>;
}

/** One call copies this much at the most, so that an abort is noticed soon. */
const PIECE = 16 * 1024 * 1024;

/**
 * `-C`: copies data that lie plain in a file inside the kernel, and passes on what is left to be loaded and
 * written. What was copied is gone from the batches: they may have gaps.
 */
export function offload(target: CopyTarget, onCopied?: (bytes: number) => void): Offload {
  return new Offload(target, onCopied);
}

/** See `offload`. */
export class Offload extends ParallelStage<ExtentBatch> {
  readonly #target: CopyTarget;
  readonly #onCopied: ((bytes: number) => void) | undefined;
  /** Once the kernel has refused, it will again. */
  #works: boolean;

  constructor(target: CopyTarget, onCopied?: (bytes: number) => void) {
    super({ tasks: 1 });
    this.#target = target;
    this.#onCopied = onCopied;
    this.#works = target.copyFrom !== undefined;
  }

  protected override jobs(batch: ExtentBatch): Iterable<ExtentBatch> {
    return [batch];
  }

  protected override weigh(): number {
    return 0;
  }

  protected override async work(batch: ExtentBatch): Promise<ExtentBatch | null> {
    const left: Extent[] = [];
    for (const each of batch) {
      const copied = each.kind === 'data' && each.payload === null ? await this.#copy(each) : 0;
      if (copied > 0) this.#onCopied?.(copied);
      if (copied < each.length) left.push(sliceExtent(each, each.offset + copied, each.length - copied));
    }
    return left.length > 0 ? new ExtentBatch(left) : null;
  }

  async #copy({ offset, length, host, hostOffset }: Extent): Promise<number> {
    let copied = 0;
    while (host !== null && copied < length && this.#works && !this.destroying) {
      const want = Math.min(PIECE, length - copied);
      const got = (await this.#target.copyFrom?.(offset + copied, host, hostOffset + copied, want)) ?? 0;
      if (got === 0) this.#works = false;
      copied += got;
    }
    return copied;
  }
}
