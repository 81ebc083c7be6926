import { ExtentBatch, extent } from '../../core/extent.ts';
import { BufferPool } from '../../core/pool.ts';
import type { PipeInput } from '../../storage/pipe-input.ts';
import { dataBatch } from '../forward.ts';
import type { ForwardSource } from '../source.ts';
import { stoppable } from '../stoppable.ts';
import type { ForwardPlan } from './forward-plan.ts';

const BATCH_BYTES = 1024 * 1024;

/** A dynamic disk from a pipe. */
export class DynamicForward implements ForwardSource {
  readonly format = 'vpc';
  readonly name: string;
  readonly size: number;
  readonly #input: PipeInput;
  readonly #plan: ForwardPlan;
  readonly #pool = new BufferPool(BATCH_BYTES);

  constructor(input: PipeInput, plan: ForwardPlan) {
    this.name = input.name;
    this.size = plan.size;
    this.#input = input;
    this.#plan = plan;
  }

  batches(): AsyncIterableIterator<ExtentBatch> {
    return stoppable(this.#batches(), this.#input);
  }

  close(): Promise<void> {
    return this.#input.close();
  }

  async *#batches(): AsyncGenerator<ExtentBatch, void, void> {
    const { blocks, blockSize, entry } = this.#plan;
    for (let block = 0; block < blocks; ) {
      const host = entry(block);
      const offset = block * blockSize;
      if (host >= 0) {
        yield* this.#data(offset, host, Math.min(blockSize, this.size - offset));
        block += 1;
      } else {
        const first = block;
        while (block < blocks && entry(block) < 0) block += 1;
        const length = Math.min(block * blockSize, this.size) - first * blockSize;
        yield new ExtentBatch([extent(offset, length, 'zero')]);
      }
    }
    // The writer is not to be cut short, and a damaged tail of a packed stream must show.
    await this.#input.drain();
  }

  async *#data(offset: number, host: number, length: number): AsyncGenerator<ExtentBatch, void, void> {
    for (let done = 0; done < length; done += BATCH_BYTES) {
      const buffer = this.#pool.take();
      const payload = buffer.subarray(0, Math.min(BATCH_BYTES, length - done));
      await this.#input.read(host + done, payload);
      yield dataBatch(offset + done, payload, () => this.#pool.give(buffer));
    }
  }
}
