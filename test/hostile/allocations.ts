/**
 * Watches the size of buffers as they are made: memory that a lying file asks for shows up here, also when
 * it is given back before anyone could look.
 */
export class AllocationWatch {
  #largest = 0;

  /** From now on, for the whole process. */
  start(): void {
    for (const name of ['alloc', 'allocUnsafe', 'allocUnsafeSlow'] as const) {
      const make = Buffer[name] as (size: number, ...rest: unknown[]) => Buffer<ArrayBuffer>;
      Buffer[name] = (size: number, ...rest: unknown[]) => {
        if (size > this.#largest) this.#largest = size;
        return make.call(Buffer, size, ...rest);
      };
    }
  }

  /** Bytes of the largest buffer since the last call. */
  take(): number {
    const largest = this.#largest;
    this.#largest = 0;
    return largest;
  }
}
