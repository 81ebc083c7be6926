import { bitRuns, setBits } from '../../../layouts/qcow2/index.ts';
import type { MarkedRange } from '../../../sources/qcow2/bitmaps.ts';

const PIECE_BYTES = 4096;
const PIECE_BITS = PIECE_BYTES * 8;
/** Stands for a piece of which all bits are set: large writes and zeroes take no memory bit by bit. */
const FULL = Buffer.alloc(0);

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
      const first = index * PIECE_BITS;
      const end = Math.min(to, first + PIECE_BITS);
      if (end - at === PIECE_BITS) this.#pieces.set(index, FULL);
      else if (this.#pieces.get(index) !== FULL) setBits(this.#piece(index), at - first, end - first);
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

  /** What is marked, ascending and joined, of a disk of `size` guest bytes. */
  *ranges(size: number): Generator<MarkedRange> {
    let [start, end] = [0, 0];
    for (const { from, to } of this.#runs()) {
      const next = from * this.#unit;
      if (next !== end) {
        if (end > start) yield { offset: start, length: end - start };
        start = next;
      }
      end = Math.min(size, to * this.#unit);
    }
    if (end > start) yield { offset: start, length: end - start };
  }

  *#runs(): Generator<{ from: number; to: number }> {
    const indices = [...this.#pieces.keys()].sort((a, b) => a - b);
    for (const index of indices) {
      const first = index * PIECE_BITS;
      const piece = this.#piece(index);
      if (piece === FULL) yield { from: first, to: first + PIECE_BITS };
      else for (const { from, to } of bitRuns(piece, PIECE_BITS)) yield { from: first + from, to: first + to };
    }
  }
}
