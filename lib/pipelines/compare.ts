import { ImageError } from '../core/errors.ts';
import { type Extent, ExtentBatch, pushExtent } from '../core/extent.ts';
import { BufferPool } from '../core/pool.ts';
import { BATCH_BYTES, throwIfAborted } from '../core/streams.ts';
import { Window } from '../core/window.ts';
import { type Mapped, walkExtents } from '../sources/extents.ts';
import type { OpenedImage } from '../sources/open.ts';
import { firstDifference } from '../transforms/difference.ts';
import { type ExtentPair, pair, piecesOf } from '../transforms/pair.ts';
import { readExtents } from '../transforms/reading.ts';
import { openInput } from './input.ts';
import { concatenate } from './mapped.ts';
import type { CacheOptions, ImageReference, ProgressOptions, VerbOptions } from './reference.ts';
import { reported } from './reported.ts';

export interface CompareOptions extends VerbOptions, ProgressOptions, CacheOptions {
  left: ImageReference;
  right: ImageReference;
  /** `-s`: different sizes and different allocation are differences too. */
  strict?: boolean;
}

/** The first difference found. */
export type Difference =
  /** Contents differ; `offset` is the first byte of the differing 512-byte sector. */
  | { kind: 'content'; offset: number }
  /** Strict mode only: sizes differ. */
  | { kind: 'size' }
  /** Strict mode only: one is allocated (or zero) where the other is not. */
  | { kind: 'allocation'; offset: number };

export interface CompareResult {
  identical: boolean;
  /** Null when identical. */
  difference: Difference | null;
  /** Guest sizes in bytes; where they differ without `strict`, the longer one's tail is zeros if identical. */
  leftSize: number;
  rightSize: number;
}

/** What failed inside compare, for its exit code: opening is 2, asking for the map is 3, reading is 4. */
export type ComparePhase = 'open' | 'map' | 'read';

/** An ImageError with the phase in which it happened. */
export class CompareError extends ImageError {
  readonly phase: ComparePhase;

  constructor(phase: ComparePhase, message: string, cause: ImageError) {
    const { kind, file, format, operation, offset, code } = cause;
    super(kind, message, { file, format, operation, offset, code, cause });
    this.phase = phase;
  }
}

/** Reads of either side in flight. */
const PARALLEL = 4;

/**
 * Compares guest contents: `qemu-img compare`. What neither side holds is not read. A longer disk may have
 * zeros beyond the other's end. Rejects with a CompareError.
 */
export async function compare(options: CompareOptions): Promise<CompareResult> {
  const left = await opened(options.left, options);
  try {
    const right = await opened(options.right, options);
    try {
      return await compareImages(left, right, options);
    } finally {
      await right.close();
    }
  } finally {
    await left.close();
  }
}

async function opened(reference: ImageReference, options: CompareOptions): Promise<OpenedImage> {
  try {
    return await openInput(reference, { ...options, cache: options.sourceCache });
  } catch (error) {
    throw error instanceof ImageError ? new CompareError('open', error.message, error) : error;
  }
}

async function compareImages(left: OpenedImage, right: OpenedImage, options: CompareOptions): Promise<CompareResult> {
  // Whole sectors on both sides, as everywhere.
  const sides: [Mapped, Mapped] = [concatenate([left.chain]), concatenate([right.chain])];
  const [leftSize, rightSize] = sides.map(({ size }) => size);
  const done = (difference: Difference | null): CompareResult => ({
    identical: difference === null,
    difference,
    leftSize,
    rightSize,
  });
  if (options.strict && leftSize !== rightSize) return done({ kind: 'size' });
  const comparison = new Comparison(sides, [left.filename, right.filename], options);
  return done(await comparison.run());
}

/** One run of compare: walks both maps, and reads what must be read, several ranges at once. */
class Comparison {
  readonly #sides: readonly [Mapped, Mapped];
  readonly #names: readonly [string, string];
  readonly #options: CompareOptions;
  readonly #window = new Window(PARALLEL);
  readonly #pool = new BufferPool(BATCH_BYTES, 2 * PARALLEL);
  readonly #total: number;
  /** The lowest difference or failure so far: ranges finish in any order. */
  #found: { offset: number; difference: Difference | null; error: unknown } | null = null;
  #done = 0;

  constructor(sides: readonly [Mapped, Mapped], names: readonly [string, string], options: CompareOptions) {
    this.#sides = sides;
    this.#names = names;
    this.#options = options;
    this.#total = Math.max(sides[0].size, sides[1].size);
  }

  async run(): Promise<Difference | null> {
    try {
      await this.#walk();
    } catch (error) {
      // What comes earlier on the disk, and is still being read, goes before what stopped the walk.
      await this.#window.settle();
      if (this.#found === null) throw error;
    }
    await this.#window.drain();
    if (this.#found === null) return null;
    const { difference, error } = this.#found;
    if (difference === null) throw error;
    return difference;
  }

  async #walk(): Promise<void> {
    const common = Math.min(this.#sides[0].size, this.#sides[1].size);
    const [left, right] = [this.#maps(0, 0, common), this.#maps(1, 0, common)];
    for await (const pairs of pair(left, right)) {
      for (const each of pairs) if (!(await this.#takePair(each))) return;
    }
    const longer = this.#sides[0].size > common ? 0 : 1;
    for await (const batch of this.#maps(longer, common, this.#total - common)) {
      for (const each of batch) if (!(await this.#takeTail(longer, each))) return;
    }
  }

  async *#maps(side: 0 | 1, offset: number, length: number): AsyncGenerator<ExtentBatch> {
    if (length <= 0) return;
    try {
      const walk = walkExtents(this.#sides[side], { offset, length });
      yield* coalesced(this.#options.strict ? reported(walk) : walk);
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
      throw new CompareError('map', `Sector allocation test failed for ${this.#names[side]}`, error);
    }
  }

  /** False: nothing further matters. */
  async #takePair(both: ExtentPair): Promise<boolean> {
    throwIfAborted(this.#options.signal);
    const { left, right } = both;
    if (this.#options.strict && !sameStatus(both, this.#total)) {
      this.#note(left.offset, { kind: 'allocation', offset: left.offset }, null);
      return false;
    }
    if (left.kind !== 'data' && right.kind !== 'data') this.#advance(left.length);
    else {
      for (const [one, other] of piecesOf(both, BATCH_BYTES)) {
        await this.#check(one, other);
        if (this.#found !== null) return false;
      }
    }
    return true;
  }

  async #takeTail(side: 0 | 1, each: Extent): Promise<boolean> {
    const zero: Extent = { ...each, kind: 'zero', layer: null, host: null, hostOffset: -1 };
    const end = each.offset + each.length;
    const [left, right] = side === 0 ? [each, zero] : [zero, each];
    return this.#takePair({ left, right, leftEnd: end, rightEnd: end });
  }

  #check(left: Extent, right: Extent): Promise<void> {
    const { offset, length } = left;
    return this.#window.enter(async () => {
      const [one, other] = await Promise.allSettled([this.#load(0, left), this.#load(1, right)]);
      if (one.status === 'rejected') return this.#note(offset, null, one.reason);
      if (other.status === 'rejected') return this.#note(offset, null, other.reason);
      const at = firstDifference(one.value, other.value);
      if (at >= 0) this.#note(offset, { kind: 'content', offset: offset + at }, null);
      this.#giveBack(one.value);
      this.#giveBack(other.value);
      this.#advance(length);
    });
  }

  async #load(side: 0 | 1, each: Extent): Promise<Buffer | null> {
    if (each.kind !== 'data') return null;
    const buffer = this.#pool.take();
    try {
      const content = buffer.subarray(0, each.length);
      await readExtents([each], content);
      return content;
    } catch (error) {
      if (!(error instanceof ImageError)) throw error;
      const { cause } = error;
      const reason = cause instanceof Error ? cause.message : error.message;
      const text = `Error while reading offset ${each.offset} of ${this.#names[side]}: ${reason}`;
      throw new CompareError('read', text, error);
    }
  }

  #giveBack(content: Buffer | null): void {
    if (content === null) return;
    this.#pool.give(Buffer.from(content.buffer as ArrayBuffer, content.byteOffset, this.#pool.size));
  }

  #note(offset: number, difference: Difference | null, error: unknown): void {
    if (this.#found === null || offset < this.#found.offset) this.#found = { offset, difference, error };
  }

  #advance(bytes: number): void {
    this.#done += bytes;
    this.#options.onProgress?.(this.#done, this.#total);
  }
}

/**
 * What strict mode compares: whether both hold it, as what, whether it lies plain in a file, and (as qemu-img's own block
 * status has it) whether the extent is the disk's last.
 */
function sameStatus({ left, right, leftEnd, rightEnd }: ExtentPair, size: number): boolean {
  if (left.kind !== right.kind || (left.host !== null) !== (right.host !== null)) return false;
  return (leftEnd === size) === (rightEnd === size);
}

/** Extents joined across batches, so that where one `map` call stopped makes no difference. */
async function* coalesced(batches: AsyncIterable<ExtentBatch>): AsyncGenerator<ExtentBatch> {
  let open: Extent | null = null;
  for await (const batch of batches) {
    const extents: Extent[] = open === null ? [] : [open];
    for (const each of batch) pushExtent(extents, each);
    open = extents.pop() ?? null;
    if (extents.length > 0) yield new ExtentBatch(extents);
  }
  if (open !== null) yield new ExtentBatch([open]);
}
