/**
 * Buffers of one size, handed out and taken back. Only spares are kept: a buffer that never comes
 * back is simply garbage, so forgetting to release costs speed and nothing else.
 */
export class BufferPool {
  readonly size: number;
  readonly #spares: Buffer[] = [];
  readonly #keep: number;

  /** @param size bytes of each buffer  @param keep how many spares to hold at most */
  constructor(size: number, keep = 16) {
    this.size = size;
    this.#keep = keep;
  }

  /** A buffer with arbitrary contents. */
  take(): Buffer {
    return this.#spares.pop() ?? Buffer.allocUnsafeSlow(this.size);
  }

  /** Hands a buffer back; the caller must not touch it (or a slice of it) again. */
  give(buffer: Buffer): void {
    if (buffer.length === this.size && this.#spares.length < this.#keep) this.#spares.push(buffer);
  }
}

const ZERO_BLOCK = Buffer.alloc(64 * 1024);

/**
 * Whether every byte of `buffer` in [start, end) is zero. `Buffer.compare` against a zero block
 * runs as memcmp, faster than memory delivers; a first look at a few bytes spares most data the call.
 */
export function isZero(buffer: Buffer, start = 0, end = buffer.length): boolean {
  if (start >= end) return true;
  if (buffer[start] !== 0 || buffer[end - 1] !== 0 || buffer[start + ((end - start) >> 1)] !== 0) return false;
  for (let at = start; at < end; at += ZERO_BLOCK.length) {
    const stop = Math.min(end, at + ZERO_BLOCK.length);
    if (buffer.compare(ZERO_BLOCK, 0, stop - at, at, stop) !== 0) return false;
  }
  return true;
}

/** A shared block of zeros, 64 KiB, never to be written to. */
export function zeroBlock(): Buffer {
  return ZERO_BLOCK;
}
