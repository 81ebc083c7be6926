/** Buckets between a power of two and the next: quantiles are off by no more than 1.6 %. */
const PARTS = 64;
const POWERS = 53;

/** Counts values above 0 in buckets, so that quantiles of any number of them take the same memory. */
export class Histogram {
  readonly #counts = new Float64Array(PARTS * POWERS);
  #total = 0;
  #sum = 0;
  #min = Number.POSITIVE_INFINITY;
  #max = 0;

  add(value: number): void {
    const power = Math.max(0, Math.min(POWERS - 1, Math.floor(Math.log2(value))));
    const part = Math.max(0, Math.min(PARTS - 1, Math.floor((value / 2 ** power - 1) * PARTS)));
    this.#counts[power * PARTS + part] += 1;
    this.#total += 1;
    this.#sum += value;
    this.#min = Math.min(this.#min, value);
    this.#max = Math.max(this.#max, value);
  }

  get count(): number {
    return this.#total;
  }

  /** 0 where nothing was added; so are the others. */
  get min(): number {
    return this.#total === 0 ? 0 : this.#min;
  }

  get max(): number {
    return this.#max;
  }

  get mean(): number {
    return this.#total === 0 ? 0 : this.#sum / this.#total;
  }

  /** A value that the part `share` (0 to 1) of all values does not exceed. */
  quantile(share: number): number {
    let left = Math.max(1, Math.ceil(share * this.#total));
    for (let bucket = 0; bucket < this.#counts.length && this.#total > 0; bucket += 1) {
      left -= this.#counts[bucket];
      if (left > 0) continue;
      const upper = 2 ** Math.floor(bucket / PARTS) * (1 + ((bucket % PARTS) + 1) / PARTS);
      return Math.max(this.min, Math.min(this.#max, upper));
    }
    return 0;
  }
}
