/**
 * Bytes that come once, in chunks of any size above 0. A chunk is only valid until the next one is asked for:
 * its memory is then used again. Failures are ImageErrors. `return()` gives the stream up.
 */
export type ChunkStream = AsyncGenerator<Buffer, void, void>;

/** Looks at and takes bytes of a chunk stream, however they are cut: what decoders of packed streams read from. */
export class ChunkReader {
  readonly #chunks: ChunkStream;
  /** What is looked at: the latest chunk itself, or `#own`. */
  #held: Buffer = Buffer.alloc(0);
  #own: Buffer = Buffer.alloc(0);
  #start = 0;
  #end = 0;
  #ended = false;
  #taken = 0;

  constructor(chunks: ChunkStream) {
    this.#chunks = chunks;
  }

  /** Bytes taken so far. */
  get position(): number {
    return this.#taken;
  }

  /** Bytes at hand without another read. */
  get available(): number {
    return this.#end - this.#start;
  }

  /** The bytes at hand: valid until the next `ensure`. */
  get view(): Buffer {
    return this.#held.subarray(this.#start, this.#end);
  }

  /** Reads on until `count` bytes are at hand; false where the stream ends before. */
  async ensure(count: number): Promise<boolean> {
    while (this.available < count && !this.#ended) {
      // The held chunk's memory is used again as soon as the next one is asked for: what is left of it moves out.
      if (this.available > 0) this.#gather(0, count);
      const { value, done } = await this.#chunks.next();
      if (done) this.#ended = true;
      else this.#append(value);
    }
    return this.available >= count;
  }

  /** Consumes bytes that are at hand. */
  take(count: number): Buffer {
    const taken = this.#held.subarray(this.#start, this.#start + count);
    this.#start += count;
    this.#taken += count;
    return taken;
  }

  /** Consumes up to `buffer.length` bytes into `buffer`; fewer only at the stream's end. */
  async fill(buffer: Buffer): Promise<number> {
    let filled = 0;
    while (filled < buffer.length && (await this.ensure(1))) {
      filled += this.take(Math.min(this.available, buffer.length - filled)).copy(buffer, filled);
    }
    return filled;
  }

  close(): Promise<unknown> {
    return this.#chunks.return();
  }

  #append(chunk: Buffer): void {
    if (this.available === 0) {
      this.#held = chunk;
      this.#start = 0;
      this.#end = chunk.length;
      return;
    }
    this.#gather(chunk.length, 0);
    this.#end += chunk.copy(this.#held, this.#end);
  }

  /** Moves what is held into memory of our own, with room for `more` bytes behind it. */
  #gather(more: number, atLeast: number): void {
    const size = this.available;
    const own = this.#held === this.#own;
    if (own && this.#end + more <= this.#own.length) return;
    if (size + more > this.#own.length) {
      const grown = Buffer.allocUnsafeSlow(Math.max(size + more, atLeast, 2 * this.#own.length, 64 * 1024));
      this.#held.copy(grown, 0, this.#start, this.#end);
      this.#own = grown;
    } else {
      this.#held.copy(this.#own, 0, this.#start, this.#end);
    }
    this.#held = this.#own;
    this.#start = 0;
    this.#end = size;
  }
}
