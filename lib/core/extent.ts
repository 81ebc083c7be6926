/**
 * Extents: what lies where in a guest disk. Offsets and lengths are bytes, numbers below 2^53.
 */

/** `data`: bytes to be read; `zero`: reads as zeros; `unallocated`: this layer says nothing. */
export type ExtentKind = 'data' | 'zero' | 'unallocated';

/** Anything with bytes at offsets: a storage, a source. */
export interface ByteReader {
  /** For messages: the filename as the user wrote it. */
  readonly name: string;
  /** Fills the whole of `buffer` from `offset`; an ImageError where that is not possible. */
  read(offset: number, buffer: Buffer): Promise<void>;
}

/** One run of guest bytes of one kind. Always made by `extent()`, so that all share one shape. */
export interface Extent {
  /** Guest offset. */
  offset: number;
  /** Bytes; at least 1. */
  length: number;
  kind: ExtentKind;
  /** 0 is the top image, 1 its backing file, and so on. */
  depth: number;
  /** The layer that holds it: `layer.read(offset, …)` gives the guest bytes of a data extent. */
  layer: ByteReader | null;
  /** Where the bytes lie plain (neither compressed nor encrypted), if they do. A zero extent may have space too. */
  host: ByteReader | null;
  /** Offset in `host`; -1 without one. */
  hostOffset: number;
  compressed: boolean;
  /** A zero extent whose layer calls it data: its clusters lie in a hole of `host` (preallocated metadata). */
  hollow: boolean;
  /**
   * The guest bytes, once loaded: `length` of them. After `compress()`, the compressed form
   * (`packed` is then true) and `length` still counts guest bytes.
   */
  payload: Buffer | null;
  /** `payload` is in the target's compressed form. */
  packed: boolean;
}

/** A bare extent; callers set what they know. */
export function extent(offset: number, length: number, kind: ExtentKind): Extent {
  return {
    offset,
    length,
    kind,
    depth: 0,
    layer: null,
    host: null,
    hostOffset: -1,
    compressed: false,
    hollow: false,
    payload: null,
    packed: false,
  };
}

/** The part of `from` that covers [offset, offset + length), which must lie inside it. */
export function sliceExtent(from: Extent, offset: number, length: number): Extent {
  const skip = offset - from.offset;
  if (skip === 0 && length === from.length) return from;
  const part = { ...from, offset, length };
  if (from.hostOffset >= 0) part.hostOffset = from.hostOffset + skip;
  if (from.payload !== null && !from.packed) part.payload = from.payload.subarray(skip, skip + length);
  return part;
}

/** Whether `next` follows `last` so that one extent can say both (payloads are never joined). */
export function mergeable(last: Extent, next: Extent): boolean {
  return (
    last.kind === next.kind &&
    last.offset + last.length === next.offset &&
    last.layer === next.layer &&
    last.depth === next.depth &&
    last.compressed === next.compressed &&
    last.hollow === next.hollow &&
    last.host === next.host &&
    last.payload === null &&
    next.payload === null &&
    (last.hostOffset < 0 ? next.hostOffset < 0 : last.hostOffset + last.length === next.hostOffset)
  );
}

/** Appends to a list, growing its last extent where the new one merely continues it. */
export function pushExtent(list: Extent[], next: Extent): void {
  const last = list.length > 0 ? list[list.length - 1] : undefined;
  if (last !== undefined && mergeable(last, next)) last.length += next.length;
  else list.push(next);
}

/**
 * What travels in a stream: consecutive extents, ascending and without overlap. Iterable.
 * `release` hands the payloads' buffer back to its pool: an optimisation that only the last
 * consumer may use, and that nobody must.
 */
export class ExtentBatch implements Iterable<Extent> {
  extents: Extent[];
  #release: (() => void) | null;

  constructor(extents: Extent[], release: (() => void) | null = null) {
    this.extents = extents;
    this.#release = release;
  }

  /** First guest offset; a batch is never empty. */
  get offset(): number {
    return this.extents[0].offset;
  }

  /** First guest offset after the batch. */
  get end(): number {
    const last = this.extents[this.extents.length - 1];
    return last.offset + last.length;
  }

  /** The same payloads as other extents; the right to release moves to the new batch. */
  with(extents: Extent[]): ExtentBatch {
    const next = new ExtentBatch(extents, this.#release);
    this.#release = null;
    return next;
  }

  release(): void {
    const release = this.#release;
    this.#release = null;
    release?.();
  }

  [Symbol.iterator](): Iterator<Extent> {
    return this.extents[Symbol.iterator]();
  }
}

/**
 * Weight of a batch for highwater marks: its payload bytes plus one. streamx drops items of
 * weight 0 silently and assumes that an item's weight never changes, so the payload is weighed
 * by whoever asks first and remembered.
 */
export function batchWeight(batch: ExtentBatch): number {
  let weight = WEIGHTS.get(batch);
  if (weight === undefined) {
    weight = 1;
    for (const { payload } of batch.extents) if (payload !== null) weight += payload.length;
    WEIGHTS.set(batch, weight);
  }
  return weight;
}

const WEIGHTS = new WeakMap<ExtentBatch, number>();
