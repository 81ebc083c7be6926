import { ImageError } from '../core/errors.ts';
import { ChunkReader, type ChunkStream } from './chunks.ts';
import { SequentialStorage } from './sequential.ts';

/** Bytes that a pipe's head may have: all that is looked at before anything is consumed. */
export const MAX_HEAD = 16 * 1024 * 1024;

/**
 * An input that comes once, as a storage: `read` goes forward and may leave gaps, and before anything is consumed
 * the head can be looked at, to recognise a format and to see whether it can be read forward.
 */
export class PipeInput extends SequentialStorage {
  readonly writable = false;
  readonly #reader: ChunkReader;
  readonly #stop: () => void;

  /** @param stop makes a read of `chunks` that is under way fail */
  constructor(name: string, chunks: ChunkStream, stop: () => void = () => {}) {
    super(name);
    this.#reader = new ChunkReader(chunks);
    this.#stop = stop;
  }

  /** Bytes that have been read. */
  get position(): number {
    return this.passed;
  }

  /** The next `length` bytes (at most `MAX_HEAD`), which stay to be read; fewer only where the input ends. */
  async peek(length: number): Promise<Buffer> {
    if (length > MAX_HEAD) throw this.refuse('look ahead', this.position + length);
    await this.#reader.ensure(length);
    return this.#reader.view.subarray(0, length);
  }

  /** Fills `buffer` with what comes next; fewer bytes only where the input ends. */
  async readNext(buffer: Buffer): Promise<number> {
    const count = await this.#reader.fill(buffer);
    this.passed += count;
    return count;
  }

  /** Reads from `offset`, which is not behind what has been read; what lies between is dropped. */
  override async read(offset: number, buffer: Buffer): Promise<void> {
    await this.skipTo(offset);
    const count = await this.readNext(buffer);
    if (count < buffer.length) throw this.#cutOff();
  }

  /**
   * The next `length` bytes as a stream; after them the input is read to its end, so that its writer is not cut short and
   * a damaged tail shows. Giving the stream up closes the input.
   */
  async *pass(length: number): ChunkStream {
    const end = this.position + length;
    try {
      while (this.position < end) {
        if (!(await this.#reader.ensure(1))) throw this.#cutOff();
        const chunk = this.#reader.take(Math.min(this.#reader.available, end - this.position));
        this.passed += chunk.length;
        yield chunk;
      }
      await this.drain();
    } finally {
      await this.close();
    }
  }

  async skipTo(offset: number): Promise<void> {
    if (offset < this.position) throw this.refuse('read', offset);
    while (this.position < offset) {
      if (!(await this.#reader.ensure(1))) throw this.#cutOff();
      const taken = this.#reader.take(Math.min(this.#reader.available, offset - this.position));
      this.passed += taken.length;
    }
  }

  /** Reads to the end, dropping everything: so that a damaged tail of a packed stream does not go unnoticed. */
  async drain(): Promise<void> {
    while (await this.#reader.ensure(1)) this.passed += this.#reader.take(this.#reader.available).length;
  }

  /**
   * Gives the input up: a read that is under way fails (`aborted`), and no further one succeeds. Without it, ending an
   * iteration would wait for the next bytes of a writer that may be silent for long.
   */
  stop(): void {
    this.#stop();
  }

  async close(): Promise<void> {
    this.stop();
    await this.#reader.close();
  }

  #cutOff(): ImageError {
    return new ImageError('corrupt', 'The input ends before the data that should be there', {
      file: this.name,
      operation: 'read',
      offset: this.position,
    });
  }
}
