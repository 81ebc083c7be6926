import { alignUp } from '../../core/binary.ts';
import { ImageError } from '../../core/errors.ts';
import type { ExtentBatch } from '../../core/extent.ts';
import { BufferPool } from '../../core/pool.ts';
import { FOOTER_SIZE, SECTOR } from '../../layouts/vpc/index.ts';
import type { PipeInput } from '../../storage/pipe-input.ts';
import { inContext } from '../context.ts';
import { dataBatch } from '../forward.ts';
import type { ForwardSource } from '../source.ts';
import { stoppable } from '../stoppable.ts';
import { decodeFixed } from './head.ts';

const BATCH_BYTES = 1024 * 1024;
/**
 * Held back until the end is seen: the footer, and behind the disk as its geometry has it up to a cylinder (of 16
 * heads and 255 sectors) that is in the file, but not part of the disk.
 */
const HELD_BYTES = 2 * BATCH_BYTES;

/** A fixed disk from a pipe: where it ends shows when its footer has come. */
export class FixedForward implements ForwardSource {
  readonly format = 'vpc';
  readonly name: string;
  size: number | null = null;
  readonly #input: PipeInput;
  readonly #pool = new BufferPool(BATCH_BYTES);

  constructor(input: PipeInput) {
    this.name = input.name;
    this.#input = input;
  }

  batches(): AsyncIterableIterator<ExtentBatch> {
    return stoppable(this.#batches(), this.#input);
  }

  close(): Promise<void> {
    return this.#input.close();
  }

  async *#batches(): AsyncGenerator<ExtentBatch, void, void> {
    const held: Buffer[] = [];
    let offset = 0;
    let last = BATCH_BYTES;
    while (last === BATCH_BYTES) {
      const buffer = this.#pool.take();
      last = await this.#input.readNext(buffer);
      held.push(buffer.subarray(0, last));
      if (held.length * BATCH_BYTES <= HELD_BYTES + BATCH_BYTES) continue;
      yield this.#batch(offset, held.shift() as Buffer, BATCH_BYTES);
      offset += BATCH_BYTES;
    }
    const size = this.#sizeOf(held, offset);
    this.size = size;
    for (const buffer of held) {
      const length = Math.min(buffer.length, size - offset);
      if (length <= 0) return;
      yield this.#batch(offset, buffer, length);
      offset += length;
    }
  }

  #batch(offset: number, buffer: Buffer, length: number): ExtentBatch {
    const whole = Buffer.from(buffer.buffer, buffer.byteOffset, BATCH_BYTES);
    return dataBatch(offset, buffer.subarray(0, length), () => this.#pool.give(whole));
  }

  /** What the footer says, which must fit to what came. */
  #sizeOf(held: readonly Buffer[], offset: number): number {
    const tail = Buffer.concat(held);
    const end = offset + alignUp(tail.length, SECTOR) - FOOTER_SIZE;
    const size = this.#decodedSize(tail, end - offset);
    if (size >= offset && size <= end) return size;
    throw new ImageError('corrupt', `The disk has ${size} bytes by its footer, and ${end} bytes came`, {
      file: this.name,
      format: this.format,
      operation: 'read',
      offset: end,
    });
  }

  #decodedSize(tail: Buffer, at: number): number {
    // Virtual PC's footer of 511 bytes is filled up.
    const footer = Buffer.alloc(FOOTER_SIZE);
    if (at >= 0) tail.copy(footer, 0, at);
    try {
      return decodeFixed(footer, null, this).size;
    } catch (error) {
      throw inContext(error, this.name, this.format);
    }
  }
}
