import { read } from 'node:fs';
import { Socket, type SocketConstructorOpts } from 'node:net';
import { fromSystemError, ImageError } from '../core/errors.ts';
import { BufferPool } from '../core/pool.ts';
import { tracePoint } from '../core/trace.ts';
import type { ChunkStream } from './chunks.ts';

const CHUNK_BYTES = 1024 * 1024;
/** Chunks read ahead of the consumer before the pipe is left to fill up. */
const READ_AHEAD = 3;

const traceEnd = tracePoint('pipe_input_end');

/**
 * The bytes of a pipe or socket, in chunks of up to 1 MiB. Reads are non-blocking and driven by the event loop:
 * a read that blocks in the thread pool could not be given up, and would keep the process from ending while the
 * writer at the other end is silent.
 * @param signal makes the read under way and all further ones fail
 */
export async function* readPipe(fd: number, name: string, signal: AbortSignal): ChunkStream {
  const pool = new BufferPool(CHUNK_BYTES, READ_AHEAD + 2);
  const queue: Buffer[] = [];
  let landing = pool.take();
  let state: { ended: boolean; error: Error | null } = { ended: false, error: null };
  let wake: (() => void) | null = null;
  const change = (next: Partial<typeof state> = {}) => {
    state = { ...state, ...next };
    wake?.();
  };
  const onread = {
    buffer: () => {
      landing = pool.take();
      return landing;
    },
    callback: (count: number) => {
      queue.push(landing.subarray(0, count));
      if (queue.length >= READ_AHEAD) socket.pause();
      change();
      return true;
    },
  };
  // The types know `onread` for connecting sockets only; the constructor takes it for descriptors just as well.
  const socket = new Socket({ fd, readable: true, writable: false, onread } as SocketConstructorOpts);
  socket.on('end', () => change({ ended: true }));
  socket.on('error', (error) => change({ ended: true, error }));
  socket.on('close', () => change({ ended: true }));
  // What was given up has not come to its end: it must not look as if it had.
  const abort = () => change({ error: new ImageError('aborted', 'The input was given up', { file: name }) });
  signal.addEventListener('abort', abort);
  if (signal.aborted) abort();
  socket.resume();
  let total = 0;
  try {
    for (;;) {
      const chunk = signal.aborted ? undefined : queue.shift();
      if (chunk !== undefined) {
        if (queue.length < READ_AHEAD) socket.resume();
        total += chunk.length;
        yield chunk;
        pool.give(Buffer.from(chunk.buffer, chunk.byteOffset, pool.size));
      } else if (state.error !== null) {
        throw fromSystemError(state.error, { file: name, operation: 'read', offset: total });
      } else if (state.ended) {
        if (traceEnd.enabled) traceEnd.emit({ bytes: total });
        return;
      } else {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
        wake = null;
      }
    }
  } finally {
    signal.removeEventListener('abort', abort);
    socket.destroy();
  }
}

/** The bytes of a file or character device from its current position, in chunks of 1 MiB. */
export async function* readDescriptor(fd: number, name: string): ChunkStream {
  const buffer = Buffer.allocUnsafeSlow(CHUNK_BYTES);
  for (let total = 0; ; ) {
    const count = await new Promise<number>((resolve, reject) => {
      read(fd, buffer, 0, buffer.length, null, (error, bytes) => {
        if (error) reject(fromSystemError(error, { file: name, operation: 'read', offset: total }));
        else resolve(bytes);
      });
    });
    if (count === 0) return;
    total += count;
    yield buffer.subarray(0, count);
  }
}
