/**
 * A bounded window of work in flight: by number of tasks and by bytes. `enter` waits until there is
 * room and starts the task; `drain` waits for all. The first failure is kept and thrown by the next
 * `enter` or `drain`, so that a failed parallel stage stops soon and loses no error.
 */
export class Window {
  readonly #maxTasks: number;
  readonly #maxBytes: number;
  #tasks = 0;
  #bytes = 0;
  #failure: { error: unknown } | null = null;
  #waiting: (() => void)[] = [];

  constructor(maxTasks: number, maxBytes = Number.POSITIVE_INFINITY) {
    this.#maxTasks = maxTasks;
    this.#maxBytes = maxBytes;
  }

  get inFlight(): number {
    return this.#tasks;
  }

  /** Whether a task of `bytes` could start at once; a lone task may exceed the byte bound. */
  hasRoom(bytes = 0): boolean {
    return this.#tasks === 0 || (this.#tasks < this.#maxTasks && this.#bytes + bytes <= this.#maxBytes);
  }

  /** Starts `task` as soon as there is room; resolves when it has started, not when it is done. */
  async enter(task: () => Promise<unknown>, bytes = 0): Promise<void> {
    while (this.#failure === null && !this.hasRoom(bytes)) await this.#change();
    this.#rethrow();
    this.#tasks += 1;
    this.#bytes += bytes;
    task().then(
      () => this.#leave(bytes),
      (error) => {
        this.#failure ??= { error };
        this.#leave(bytes);
      },
    );
  }

  /** Resolves when nothing is in flight; throws the first failure. */
  async drain(): Promise<void> {
    await this.settle();
    this.#rethrow();
  }

  /** Like `drain`, but never throws: for `destroy`, which must not close a file under a read. */
  async settle(): Promise<void> {
    while (this.#tasks > 0) await this.#change();
  }

  #change(): Promise<void> {
    return new Promise((resolve) => this.#waiting.push(resolve));
  }

  #leave(bytes: number): void {
    this.#tasks -= 1;
    this.#bytes -= bytes;
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const wake of waiting) wake();
  }

  #rethrow(): void {
    if (this.#failure !== null) throw this.#failure.error;
  }
}
