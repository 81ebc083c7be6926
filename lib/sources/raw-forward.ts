import { alignUp } from '../core/binary.ts';
import type { ExtentBatch } from '../core/extent.ts';
import { BufferPool } from '../core/pool.ts';
import type { PipeInput } from '../storage/pipe-input.ts';
import { dataBatch, forwardInput } from './forward.ts';
import type { ForwardSource, SourceRequest } from './source.ts';
import { stoppable } from './stoppable.ts';

const BATCH_BYTES = 1024 * 1024;
const SECTOR = 512;

/** Opens raw bytes that come once; how many there are shows at their end. */
export async function openRawForward({ storage }: SourceRequest): Promise<ForwardSource> {
  return new RawForward(forwardInput(storage));
}

class RawForward implements ForwardSource {
  readonly format = 'raw';
  readonly name: string;
  size: number | null = null;
  readonly #input: PipeInput;

  constructor(input: PipeInput) {
    this.#input = input;
    this.name = input.name;
  }

  batches(): AsyncIterableIterator<ExtentBatch> {
    return stoppable(this.#batches(), this.#input);
  }

  async *#batches(): AsyncGenerator<ExtentBatch, void, void> {
    const pool = new BufferPool(BATCH_BYTES);
    for (let offset = 0; ; ) {
      const buffer = pool.take();
      const count = await this.#input.readNext(buffer);
      // As with a raw file: a disk has whole sectors, and the last one is filled up with zeros.
      const length = alignUp(count, SECTOR);
      buffer.fill(0, count, length);
      if (length > 0) yield dataBatch(offset, buffer.subarray(0, length), () => pool.give(buffer));
      offset += length;
      if (count < BATCH_BYTES) {
        this.size = offset;
        return;
      }
    }
  }

  close(): Promise<void> {
    return this.#input.close();
  }
}
