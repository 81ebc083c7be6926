import { write } from 'node:fs';
import { Socket } from 'node:net';
import { fromSystemError, ImageError } from '../core/errors.ts';
import { tracePoint } from '../core/trace.ts';
import { SequentialStorage } from './sequential.ts';

const BROKEN_PIPE = 'EPIPE';

const traceBroken = tracePoint('pipe_output_broken');

/** Writes all of a buffer; calls back when the operating system has taken it. */
interface ByteWriter {
  write(buffer: Buffer): Promise<void>;
  close(): Promise<void>;
  /** Gives up what is still under way. */
  destroy(): void;
}

/**
 * An output that goes forward only. A write resolves once the operating system has taken its bytes, so that a slow
 * reader slows the writer down and nothing piles up. `zero` writes zeros; a gap between writes is an error.
 * A write fails with the code `EPIPE` where the reader has gone: the program then ends as a signal would end it.
 */
export class PipeOutput extends SequentialStorage {
  readonly writable = true;
  readonly #writer: ByteWriter;
  #closing: Promise<void> | null = null;

  constructor(name: string, writer: ByteWriter) {
    super(name);
    this.#writer = writer;
  }

  override async write(offset: number, buffer: Buffer): Promise<void> {
    if (offset !== this.passed) throw this.refuse('write', offset);
    if (buffer.length === 0) return;
    this.passed += buffer.length;
    try {
      await this.#writer.write(buffer);
    } catch (error) {
      const failure = fromSystemError(error, { file: this.name, operation: 'write', offset });
      if (failure.code === BROKEN_PIPE && traceBroken.enabled) traceBroken.emit({ file: this.name, offset });
      throw failure;
    }
  }

  /** Gives up what is under way: its reader may never read on. Writes fail from now on. */
  stop(): void {
    this.#writer.destroy();
  }

  async close({ discard = false } = {}): Promise<void> {
    if (discard) this.stop();
    this.#closing ??= this.#writer.close().catch((error) => {
      throw fromSystemError(error, { file: this.name, operation: 'close' });
    });
    await this.#closing;
  }
}

/** Non-blocking writes to a pipe or socket: one that blocked in the thread pool could not be given up. */
export function pipeWriter(fd: number): ByteWriter {
  const socket = new Socket({ fd, readable: false, writable: true });
  let failure: Error | null = null;
  const closed = new Promise<void>((resolve) => socket.on('close', () => resolve()));
  socket.on('error', (error) => {
    failure = error;
  });
  return {
    write: (buffer) =>
      new Promise((resolve, reject) => {
        if (failure !== null || socket.destroyed) {
          reject(failure ?? new ImageError('aborted', 'The output was given up'));
          return;
        }
        socket.write(buffer, (error) => (error ? reject(failure ?? error) : resolve()));
      }),
    async close() {
      if (!socket.destroyed) socket.end(() => socket.destroy());
      await closed;
    },
    destroy: () => void socket.destroy(),
  };
}

/** Writes at a descriptor's own position: regular files opened for appending, and devices. */
export function descriptorWriter(fd: number): ByteWriter {
  const once = (buffer: Buffer, start: number): Promise<number> =>
    new Promise((resolve, reject) => {
      write(fd, buffer, start, buffer.length - start, null, (error, count) => (error ? reject(error) : resolve(count)));
    });
  return {
    async write(buffer) {
      for (let done = 0; done < buffer.length; ) done += await once(buffer, done);
    },
    // The descriptor stays open: it belongs to the process, which may not be done with it.
    close: async () => {},
    destroy: () => {},
  };
}
