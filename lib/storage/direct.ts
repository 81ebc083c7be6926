import { constants } from 'node:fs';
import { alignDown, alignUp } from '../core/binary.ts';
import { BufferPool } from '../core/pool.ts';
import { tracePoint } from '../core/trace.ts';
import { type SystemCalls, systemCalls } from '../syscalls/calls.ts';
import { bufferedIo, type PositionedIo } from './buffered.ts';
import { closeDescriptor, openDescriptor, readAt, writeAt } from './descriptor.ts';

/** Alignment of offsets, lengths and memory that every disk accepts: sectors have at most 4096 bytes. */
const ALIGNMENT = 4096;
/** Bytes of a bounce buffer: one request to the disk. */
const BOUNCE = 1024 * 1024;

const traceDirect = tracePoint('file_direct');

/**
 * Input and output around the page cache (O_DIRECT), for any offset, length and buffer: whole aligned blocks go
 * through aligned bounce buffers, and the ragged ends through `fd`, the same file opened the ordinary way (the
 * kernel keeps the two coherent). Null where the platform has no O_DIRECT or no way to align memory, or the file system
 * refuses: the file is then read and written through the page cache, and the trace says so. `flags` are those that
 * opened `fd`.
 */
export async function directIo(name: string, fd: number, flags: number): Promise<PositionedIo | null> {
  const calls = constants.O_DIRECT === undefined ? null : await systemCalls();
  const directFd = calls === null ? null : await reopen(fd, flags | constants.O_DIRECT);
  if (traceDirect.enabled) traceDirect.emit({ file: name, direct: directFd !== null });
  return calls === null || directFd === null ? null : new DirectIo(fd, directFd, calls);
}

/** The same file, even if its path names another by now; null where it can't be opened so. */
async function reopen(fd: number, flags: number): Promise<number | null> {
  try {
    return await openDescriptor(`/proc/self/fd/${fd}`, flags, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EINVAL') return null;
    throw error;
  }
}

class DirectIo implements PositionedIo {
  readonly #buffered: PositionedIo;
  readonly #directFd: number;
  readonly #pool: AlignedPool;

  constructor(fd: number, directFd: number, calls: SystemCalls) {
    this.#buffered = bufferedIo(fd);
    this.#directFd = directFd;
    this.#pool = new AlignedPool(calls);
  }

  async read(buffer: Buffer, position: number): Promise<number> {
    const end = position + buffer.length;
    for (let at = position; at < end; ) {
      const start = alignDown(at, ALIGNMENT);
      const stop = Math.min(alignUp(end, ALIGNMENT), start + BOUNCE);
      const bounce = this.#pool.take();
      try {
        const count = await readAt(this.#directFd, bounce.subarray(0, stop - start), start);
        const usable = Math.min(start + count, end);
        if (usable > at) bounce.copy(buffer, at - position, at - start, usable - start);
        if (usable < Math.min(stop, end)) return Math.max(0, usable - position);
        at = usable;
      } finally {
        this.#pool.give(bounce);
      }
    }
    return buffer.length;
  }

  async write(buffer: Buffer, position: number): Promise<void> {
    const end = position + buffer.length;
    const first = alignUp(position, ALIGNMENT);
    const last = alignDown(end, ALIGNMENT);
    if (first >= last) return this.#buffered.write(buffer, position);
    if (position < first) await this.#buffered.write(buffer.subarray(0, first - position), position);
    for (let at = first; at < last; at += BOUNCE) {
      const stop = Math.min(last, at + BOUNCE);
      await this.#writeBlocks(buffer.subarray(at - position, stop - position), at);
    }
    if (last < end) await this.#buffered.write(buffer.subarray(last - position), last);
  }

  async #writeBlocks(blocks: Buffer, position: number): Promise<void> {
    const bounce = this.#pool.take();
    try {
      blocks.copy(bounce);
      await writeAt(this.#directFd, bounce.subarray(0, blocks.length), position);
    } finally {
      this.#pool.give(bounce);
    }
  }

  async writev(buffers: readonly Buffer[], position: number): Promise<void> {
    await this.write(buffers.length === 1 ? buffers[0] : Buffer.concat(buffers), position);
  }

  sync(): Promise<void> {
    return this.#buffered.sync();
  }

  async close(): Promise<void> {
    try {
      await closeDescriptor(this.#directFd);
    } finally {
      await this.#buffered.close();
    }
  }
}

/** Bounce buffers that begin at a multiple of the alignment in memory. */
class AlignedPool {
  readonly #pool = new BufferPool(BOUNCE + ALIGNMENT);
  readonly #whole = new WeakMap<Buffer, Buffer>();
  readonly #calls: SystemCalls;

  constructor(calls: SystemCalls) {
    this.#calls = calls;
  }

  take(): Buffer {
    const whole = this.#pool.take();
    const skip = (ALIGNMENT - this.#calls.misalignment(whole, ALIGNMENT)) % ALIGNMENT;
    const aligned = whole.subarray(skip, skip + BOUNCE);
    this.#whole.set(aligned, whole);
    return aligned;
  }

  give(aligned: Buffer): void {
    const whole = this.#whole.get(aligned);
    if (whole !== undefined) this.#pool.give(whole);
  }
}
