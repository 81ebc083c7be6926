import type { ExtentBatch } from '../core/extent.ts';
import type { PipeInput } from '../storage/pipe-input.ts';

/**
 * Batches from a pipe, whose iteration can be ended while it waits for bytes: a generator's own `return()` would wait
 * with it.
 */
export function stoppable(
  batches: AsyncGenerator<ExtentBatch, void, void>,
  input: PipeInput,
): AsyncIterableIterator<ExtentBatch> {
  return {
    next: () => batches.next(),
    return() {
      input.stop();
      return batches.return();
    },
    [Symbol.asyncIterator]() {
      return this;
    },
  };
}
