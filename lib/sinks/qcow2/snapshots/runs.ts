/** Clusters of one run: so many that first cluster and count fit into one number, whatever the cluster size. */
const MAX_RUN = 256;

/**
 * Host clusters as runs, each in one number: what is in a whole batch of tables is collected, sorted and walked without an object for
 * each entry. A cluster may be in it more than once.
 */
export class ClusterRuns {
  #keys = new Float64Array(1024);
  #length = 0;
  #isSorted = true;
  /** First cluster behind the last run. */
  #end = -1;
  /** Where `has` looks first. */
  #cursor = 0;

  /** How many runs there are: what the list takes in memory, eight bytes each. */
  get length(): number {
    return this.#length;
  }

  /** Adds clusters; what goes on where the last run ended makes that one longer. */
  add(first: number, clusters: number): void {
    let from = first;
    let left = clusters;
    if (from === this.#end) {
      const last = this.#length - 1;
      const more = Math.min(left, MAX_RUN - countOf(this.#keys[last]));
      this.#keys[last] += more;
      from += more;
      left -= more;
    } else if (from < this.#end) this.#isSorted = false;
    for (; left > 0; left -= MAX_RUN) {
      this.#push(from * MAX_RUN + Math.min(left, MAX_RUN) - 1);
      from += MAX_RUN;
    }
    this.#end = first + clusters;
  }

  #push(key: number): void {
    if (this.#length === this.#keys.length) {
      const longer = new Float64Array(this.#length * 2);
      longer.set(this.#keys);
      this.#keys = longer;
    }
    this.#keys[this.#length] = key;
    this.#length += 1;
  }

  clear(): void {
    this.#length = 0;
    this.#isSorted = true;
    this.#end = -1;
    this.#cursor = 0;
  }

  /** The runs in ascending order of their first clusters; see `firstOf` and `countOf`. Good until the next change. */
  ascending(): Float64Array {
    if (!this.#isSorted) this.#sort();
    return this.#keys.subarray(0, this.#length);
  }

  #sort(): void {
    this.#keys.subarray(0, this.#length).sort();
    this.#isSorted = true;
    this.#end = endOf(this.#keys[this.#length - 1]);
  }

  /** Whether the cluster is in one of the runs, which must not overlap. Quick where one asks in order. */
  has(cluster: number): boolean {
    if (!this.#isSorted) this.#sort();
    const keys = this.#keys;
    const near = this.#cursor;
    if (near < this.#length && firstOf(keys[near]) <= cluster && cluster < endOf(keys[near])) return true;
    let low = 0;
    let high = this.#length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (firstOf(keys[middle]) > cluster) high = middle;
      else low = middle + 1;
    }
    if (low === 0) return false;
    this.#cursor = low - 1;
    return cluster < endOf(keys[low - 1]);
  }
}

/** First cluster of a run. */
export function firstOf(key: number): number {
  return Math.floor(key / MAX_RUN);
}

/** Clusters of a run. */
export function countOf(key: number): number {
  return key - firstOf(key) * MAX_RUN + 1;
}

function endOf(key: number): number {
  return firstOf(key) + countOf(key);
}
