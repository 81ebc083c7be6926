import { ImageError } from './errors.ts';

const PAGE_BYTES = 4096;
const PAGE_BITS = PAGE_BYTES * 8;
/** Each page stands for at least one table entry of a file; with clusters of 64 KiB this is 32 TiB of them. */
const MAX_PAGES = (64 * 1024 * 1024) / PAGE_BYTES;

/** A set of numbers below 2^53, as bits. What no number of the set lies near takes no memory. */
export class BitSet {
  readonly #pages = new Map<number, Uint8Array>();
  #current: Uint8Array = new Uint8Array(0);
  #currentIndex = -1;
  #size = 0;

  /** How many numbers are in it. */
  get size(): number {
    return this.#size;
  }

  /** Puts the number in; false where it was in already. Throws an `unsupported` ImageError where the set gets too large. */
  add(number: number): boolean {
    const index = Math.floor(number / PAGE_BITS);
    if (index !== this.#currentIndex) this.#turnTo(index);
    const within = number - index * PAGE_BITS;
    const bit = 1 << (within & 7);
    if ((this.#current[within >> 3] & bit) !== 0) return false;
    this.#current[within >> 3] |= bit;
    this.#size += 1;
    return true;
  }

  #turnTo(index: number): void {
    let page = this.#pages.get(index);
    if (page === undefined) {
      if (this.#pages.size >= MAX_PAGES) {
        throw new ImageError('unsupported', 'The image has too many clusters to be checked');
      }
      page = new Uint8Array(PAGE_BYTES);
      this.#pages.set(index, page);
    }
    this.#current = page;
    this.#currentIndex = index;
  }
}
