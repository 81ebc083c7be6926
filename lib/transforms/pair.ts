import { type Extent, type ExtentBatch, sliceExtent } from '../core/extent.ts';

/** The same range of two disks: `left` and `right` have equal offset and length. */
export interface ExtentPair {
  left: Extent;
  right: Extent;
  /** Where the extents end that the two are the first parts of. */
  leftEnd: number;
  rightEnd: number;
}

/**
 * Walks two maps side by side, cut at the boundaries of both, as far as the shorter one goes. Takes any iterables of
 * batches (streams too) and closes both. Yields an array for each batch of the one that ends later.
 */
export async function* pair(
  left: AsyncIterable<ExtentBatch>,
  right: AsyncIterable<ExtentBatch>,
): AsyncGenerator<ExtentPair[]> {
  const one = new Cursor(left);
  const other = new Cursor(right);
  try {
    for (;;) {
      if (!((await one.fill()) && (await other.fill()))) return;
      yield cutTogether(one, other);
    }
  } finally {
    await Promise.all([one.close(), other.close()]);
  }
}

/** Both extents of a pair in pieces of `size` bytes at the most, cut at multiples of it. */
export function* piecesOf({ left, right }: ExtentPair, size: number): Iterable<[Extent, Extent]> {
  const end = left.offset + left.length;
  for (let at = left.offset; at < end; ) {
    const stop = Math.min(end, (Math.floor(at / size) + 1) * size);
    yield [sliceExtent(left, at, stop - at), sliceExtent(right, at, stop - at)];
    at = stop;
  }
}

function cutTogether(one: Cursor, other: Cursor): ExtentPair[] {
  const pairs: ExtentPair[] = [];
  for (let a = one.peek(), b = other.peek(); a !== null && b !== null; a = one.peek(), b = other.peek()) {
    const length = Math.min(a.length, b.length);
    const leftEnd = a.offset + a.length;
    const rightEnd = b.offset + b.length;
    pairs.push({ left: one.take(length), right: other.take(length), leftEnd, rightEnd });
  }
  return pairs;
}

/** A position in a stream of batches. */
class Cursor {
  readonly #batches: AsyncIterator<ExtentBatch>;
  #extents: Extent[] = [];
  #index = 0;

  constructor(batches: AsyncIterable<ExtentBatch>) {
    this.#batches = batches[Symbol.asyncIterator]();
  }

  /** Makes sure there is something to take; false at the end. */
  async fill(): Promise<boolean> {
    while (this.#index >= this.#extents.length) {
      const { done, value } = await this.#batches.next();
      if (done) return false;
      // A copy, as `take` shortens what it cuts.
      this.#extents = [...value.extents];
      this.#index = 0;
    }
    return true;
  }

  peek(): Extent | null {
    return this.#index < this.#extents.length ? this.#extents[this.#index] : null;
  }

  /** The next `length` bytes, which must not be more than `peek` showed. */
  take(length: number): Extent {
    const current = this.#extents[this.#index];
    if (length === current.length) this.#index += 1;
    else this.#extents[this.#index] = sliceExtent(current, current.offset + length, current.length - length);
    return sliceExtent(current, current.offset, length);
  }

  async close(): Promise<void> {
    await this.#batches.return?.();
  }
}
