/** One after the other: for metadata, which must not change between two steps of one allocation. */
export class Mutex {
  #last: Promise<unknown> = Promise.resolve();

  run<T>(task: () => Promise<T>): Promise<T> {
    const result = this.#last.then(task);
    this.#last = result.catch(() => {});
    return result;
  }
}

interface HeldRange {
  first: number;
  last: number;
  done: Promise<void>;
}

/**
 * Ranges of guest clusters that an operation works on. Callers' ranges of bytes don't overlap, yet two
 * of them may share a cluster, which must then be allocated and filled up only once.
 */
export class RangeLocks {
  readonly #held = new Set<HeldRange>();

  /** Resolves to the function that lets go, as soon as nobody else holds a cluster of first…last. */
  async acquire(first: number, last: number): Promise<() => void> {
    for (let other = this.#conflict(first, last); other !== undefined; other = this.#conflict(first, last)) {
      await other.done;
    }
    let wake!: () => void;
    const held: HeldRange = { first, last, done: new Promise((resolve) => (wake = resolve)) };
    this.#held.add(held);
    return () => {
      this.#held.delete(held);
      wake();
    };
  }

  /** Resolves when nothing is held. */
  async settle(): Promise<void> {
    for (const held of this.#held) await held.done;
  }

  #conflict(first: number, last: number): HeldRange | undefined {
    for (const held of this.#held) if (held.first <= last && first <= held.last) return held;
    return undefined;
  }
}
