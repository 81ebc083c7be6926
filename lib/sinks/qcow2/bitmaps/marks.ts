import { bitRuns, setBits } from '../../../layouts/qcow2/index.ts';
import type { MarkedRange } from '../../../sources/qcow2/bitmaps.ts';

const PIECE_BYTES = 4096;
const PIECE_BITS = PIECE_BYTES * 8;

/** Guest ranges written while an image is open, for one bitmap: pieces of bits, where there are any. */
export class Marks {
  readonly #unit: number;
  readonly #pieces = new Map<number, Buffer>();
  #lastFrom = -1;
  #lastTo = -1;

  constructor(granularityBits: number) {
    this.#unit = 2 ** granularityBits;
  }

  get isEmpty(): boolean {
    return this.#pieces.size === 0;
  }

  add(offset: number, length: number): void {
    const from = Math.floor(offset / this.#unit);
    const to = Math.ceil((offset + length) / this.#unit);
    // Writes follow each other, and most of them fall into what is marked already.
    if (from >= this.#lastFrom && to <= this.#lastTo) return;
    this.#lastFrom = from;
    this.#lastTo = to;
    for (let at = from; at < to; ) {
      const index = Math.floor(at / PIECE_BITS);
      const end = Math.min(to, (index + 1) * PIECE_BITS);
      setBits(this.#piece(index), at - index * PIECE_BITS, end - index * PIECE_BITS);
      at = end;
    }
  }

  #piece(index: number): Buffer {
    let piece = this.#pieces.get(index);
    if (piece === undefined) {
      piece = Buffer.alloc(PIECE_BYTES);
      this.#pieces.set(index, piece);
    }
    return piece;
  }

  /** What is marked, ascending, of a disk of `size` guest bytes. */
  *ranges(size: number): Generator<MarkedRange> {
    const indices = [...this.#pieces.keys()].sort((a, b) => a - b);
    for (const index of indices) {
      const first = index * PIECE_BITS;
      for (const { from, to } of bitRuns(this.#piece(index), PIECE_BITS)) {
        const offset = (first + from) * this.#unit;
        const end = Math.min(size, (first + to) * this.#unit);
        if (offset < end) yield { offset, length: end - offset };
      }
    }
  }
}
