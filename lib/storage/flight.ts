import { ImageError } from '../core/errors.ts';

/**
 * Counts the operations under way on something that will be closed: closing waits for them, and
 * what comes after is refused. A descriptor closed under a read could by then be another file's.
 */
export class Flight {
  readonly #name: string;
  #count = 0;
  #closed = false;
  #landed: (() => void) | null = null;

  constructor(name: string) {
    this.#name = name;
  }

  get closed(): boolean {
    return this.#closed;
  }

  enter(): void {
    if (this.#closed) throw new ImageError('invalid', 'The file is closed already', { file: this.#name });
    this.#count += 1;
  }

  leave(): void {
    this.#count -= 1;
    if (this.#count === 0) this.#landed?.();
  }

  /** Refuses newcomers and resolves once nothing is under way. */
  async close(): Promise<void> {
    this.#closed = true;
    if (this.#count === 0) return;
    await new Promise<void>((resolve) => {
      this.#landed = resolve;
    });
  }
}
