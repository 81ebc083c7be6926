/** What 32 bits hold; nothing counts farther. */
const MAX_COUNT = 0xffff_ffff;
/** So many clusters can be counted: 2 GiB of memory at the very most. */
export const MAX_CLUSTERS = 2 ** 31 - 1;

/** Small, so that references which lie far apart do not take much more memory than the entries that make them. */
const DEFAULT_PAGE_BITS = 10;

type Page = Uint8Array | Uint32Array;

/**
 * One number for each host cluster, in pages that are made as they are needed. A number takes a byte, and four in
 * pages where one of them is larger than 255.
 */
export class ClusterCounts {
  /** Clusters of one page. */
  readonly pageClusters: number;
  /** Some cluster was counted more than once. */
  shared = false;
  readonly #bits: number;
  readonly #pages = new Map<number, Page>();
  #lastIndex = -1;
  #last: Page = new Uint8Array(0);

  /** @param pageBits clusters of one page, as a power of two: fewer for numbers that lie far apart */
  constructor(pageBits = DEFAULT_PAGE_BITS) {
    this.#bits = pageBits;
    this.pageClusters = 2 ** pageBits;
  }

  /** Adds to the count of `cluster`, which is below MAX_CLUSTERS, and returns the sum. */
  add(cluster: number, amount: number): number {
    const index = cluster >>> this.#bits;
    const page = index === this.#lastIndex ? this.#last : this.#pageForWrite(index);
    const at = cluster & (this.pageClusters - 1);
    const sum = page[at] + amount;
    if (sum > 1) this.shared = true;
    if (sum > 255) this.#setLarge(page, index, at, sum);
    else page[at] = sum;
    return sum;
  }

  /** Adds to the counts of clusters that lie together, and returns the largest sum. */
  addRun(first: number, clusters: number, amount: number): number {
    let largest = 0;
    for (let cluster = first; cluster < first + clusters; ) {
      const index = cluster >>> this.#bits;
      const page = index === this.#lastIndex ? this.#last : this.#pageForWrite(index);
      const from = cluster & (this.pageClusters - 1);
      const to = Math.min(this.pageClusters, from + first + clusters - cluster);
      let at = from;
      for (; at < to; at += 1) {
        const sum = page[at] + amount;
        if (sum > largest) largest = sum;
        // Such a page is replaced by a wider one: what is left goes on with that.
        if (sum > 255) break;
        page[at] = sum;
      }
      cluster += at - from;
      if (at === to) continue;
      this.add(cluster, amount);
      cluster += 1;
    }
    if (largest > 1) this.shared = true;
    return largest;
  }

  /** The page that counts `cluster` if its numbers take a byte each; null where it is wide, or nothing was counted. */
  bytesOf(cluster: number): Uint8Array | null {
    const page = this.#pages.get(cluster >>> this.#bits);
    return page instanceof Uint8Array ? page : null;
  }

  get(cluster: number): number {
    const index = cluster >>> this.#bits;
    const page = index === this.#lastIndex ? this.#last : this.#pages.get(index);
    return page === undefined ? 0 : page[cluster & (this.pageClusters - 1)];
  }

  set(cluster: number, count: number): void {
    const index = cluster >>> this.#bits;
    const page = this.#pageForWrite(index);
    const at = cluster & (this.pageClusters - 1);
    if (count > 255) this.#setLarge(page, index, at, count);
    else page[at] = count;
  }

  /** Whether anything between two clusters may have been counted: a look at pages, not at numbers. */
  touches(from: number, to: number): boolean {
    for (let index = from >>> this.#bits; index * this.pageClusters < to; index += 1) {
      if (this.#pages.has(index)) return true;
    }
    return false;
  }

  #pageForWrite(index: number): Page {
    let page = this.#pages.get(index);
    if (page === undefined) {
      page = new Uint8Array(this.pageClusters);
      this.#pages.set(index, page);
    }
    this.#lastIndex = index;
    this.#last = page;
    return page;
  }

  #setLarge(page: Page, index: number, at: number, count: number): void {
    let wide = page;
    if (page instanceof Uint8Array) {
      wide = new Uint32Array(page);
      this.#pages.set(index, wide);
      this.#lastIndex = index;
      this.#last = wide;
    }
    wide[at] = Math.min(count, MAX_COUNT);
  }
}
