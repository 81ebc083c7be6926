import { alignUp } from './binary.ts';

/** Buffers that a slab is cut into: its memory is reserved at once, but taken only as it is touched. */
const SLAB_BUFFERS = 4;
const WASM_PAGE = 64 * 1024;

/** All that is used of WebAssembly, which Node's own types leave out. */
declare const WebAssembly: {
  Memory: new (pages: { initial: number; maximum: number }) => { readonly buffer: ArrayBuffer };
};

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

  /** A buffer with arbitrary contents; page-aligned where that can be had. */
  take(): Buffer {
    const spare = this.#spares.pop();
    if (spare !== undefined) return spare;
    const [first, ...rest] = makeSlab(this.size);
    this.#spares.push(...rest);
    return first;
  }

  /** Hands a buffer back; the caller must not touch it (or a slice of it) again. */
  give(buffer: Buffer): void {
    if (buffer.length === this.size && this.#spares.length < this.#keep) this.#spares.push(buffer);
  }
}

/**
 * Page-aligned buffers. The kernel copies into memory that is not aligned several times slower (measured: 1.8
 * GiB/s against 8), and a large Buffer of Node's begins a few bytes behind a page's start. WebAssembly's memory
 * is the one that JavaScript can have aligned.
 */
function makeSlab(size: number): [Buffer, ...Buffer[]] {
  const stride = alignUp(size, WASM_PAGE);
  if (size < WASM_PAGE) return [Buffer.allocUnsafeSlow(size)];
  try {
    const initial = (stride / WASM_PAGE) * SLAB_BUFFERS;
    const { buffer } = new WebAssembly.Memory({ initial, maximum: initial });
    const cut = (index: number) => Buffer.from(buffer, index * stride, size);
    return [cut(0), ...Array.from({ length: SLAB_BUFFERS - 1 }, (_, index) => cut(index + 1))];
  } catch {
    // No WebAssembly, or no address space for it: slower, that's all.
    return [Buffer.allocUnsafeSlow(size)];
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
