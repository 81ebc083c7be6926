import { Duplex, Readable } from 'streamx';
import { ImageError } from '../core/errors.ts';

/** Chunks in the order in which they come; each is valid until the next one is asked for. */
export type ChunkInput = AsyncGenerator<Buffer, void, void>;

/**
 * What lies between the two sides of a stream of bytes: reads `input` to its end, or as far as it cares, and hands out
 * chunks, which it must not touch again. Handing out waits for the reader.
 */
export type ByteWork = (input: ChunkInput, output: (chunk: Buffer) => Promise<void>) => Promise<void>;

/** Bytes that wait on either side, beside the chunk that is at work. */
const HIGH_WATER_MARK = 64 * 1024;

type Done = (error: Error | null) => void;

/** A stream of bytes through an asynchronous function; streamx, and with it Node's `pipe` and `pipeline`. */
export class Through extends Duplex {
  readonly #work: ByteWork;
  /** The chunk that is at work, and whoever waits for it to be done with. */
  #pending: { chunk: Buffer; done: Done } | null = null;
  #ended = false;
  #finished = false;
  #running: Promise<void> = Promise.resolve();
  #wakeInput: () => void = () => {};
  #wakeOutput: () => void = () => {};

  constructor(work: ByteWork) {
    // Chunks of no bytes are nothing, but streamx wants each to weigh something.
    super({ highWaterMark: HIGH_WATER_MARK, byteLength: (chunk: Buffer) => Math.max(1, chunk.byteLength) });
    this.#work = work;
  }

  override _open(done: Done): void {
    this.#running = this.#work(this.#chunks(), (chunk) => this.#output(chunk)).then(
      () => {
        this.#finished = true;
        this.push(null);
        this.#settlePending();
      },
      (error: Error) => {
        this.#finished = true;
        this.destroy(error);
      },
    );
    done(null);
  }

  override _write(data: unknown, done: Done): void {
    const chunk = toBuffer(data);
    if (chunk === null) {
      done(new ImageError('invalid', 'A stream of bytes takes Buffers, not batches or other objects'));
    } else if (this.#finished || chunk.length === 0) {
      // What nobody wants to read any more is let pass.
      done(null);
    } else {
      this.#pending = { chunk, done };
      this.#wakeInput();
    }
  }

  override _final(done: Done): void {
    this.#ended = true;
    this.#wakeInput();
    this.#running.then(() => done(null), done);
  }

  override _read(done: Done): void {
    this.#wakeOutput();
    done(null);
  }

  override _predestroy(): void {
    this.#settlePending();
    this.#wakeInput();
    this.#wakeOutput();
  }

  override _destroy(done: Done): void {
    this.#running.then(() => done(null));
  }

  async *#chunks(): ChunkInput {
    for (;;) {
      while (this.#pending === null && !this.#ended && !this.destroying) {
        await new Promise<void>((resolve) => {
          this.#wakeInput = resolve;
        });
      }
      if (this.destroying) throw gone();
      if (this.#pending === null) return;
      try {
        yield this.#pending.chunk;
      } finally {
        this.#settlePending();
      }
    }
  }

  #settlePending(): void {
    const pending = this.#pending;
    this.#pending = null;
    pending?.done(null);
  }

  async #output(chunk: Buffer): Promise<void> {
    if (this.destroying) throw gone();
    if (this.push(chunk)) return;
    while (Readable.isBackpressured(this) && !this.destroying) {
      await new Promise<void>((resolve) => {
        this.#wakeOutput = resolve;
      });
    }
    if (this.destroying) throw gone();
  }
}

function gone(): ImageError {
  return new ImageError('aborted', 'The stream was destroyed');
}

function toBuffer(data: unknown): Buffer | null {
  if (Buffer.isBuffer(data)) return data;
  if (data instanceof Uint8Array) return Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  return typeof data === 'string' ? Buffer.from(data) : null;
}
