/**
 * Orders what changes a file's length. Writes beyond the end share the lock; ftruncate(2) takes it alone: one that
 * was computed before, and runs after, another request's write would cut that write off.
 */
export class SizeLock {
  #shared = 0;
  #alone = false;
  #waiting: (() => void)[] = [];

  async share<T>(task: () => Promise<T>): Promise<T> {
    while (this.#alone) await this.#change();
    this.#shared += 1;
    try {
      return await task();
    } finally {
      this.#shared -= 1;
      this.#wake();
    }
  }

  async exclude<T>(task: () => Promise<T>): Promise<T> {
    while (this.#alone) await this.#change();
    // Newcomers wait from here on, so that a stream of growing writes can't starve this one.
    this.#alone = true;
    try {
      while (this.#shared > 0) await this.#change();
      return await task();
    } finally {
      this.#alone = false;
      this.#wake();
    }
  }

  #change(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  #wake(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const resume of waiting) resume();
  }
}
