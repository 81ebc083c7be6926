import type { Transform } from 'streamx';
import { ImageError } from '../core/errors.ts';
import { type Extent, ExtentBatch, extent, sliceExtent } from '../core/extent.ts';
import { mapBatches } from '../core/streams.ts';

export interface AlignOptions {
  /** `unallocated` means "leave to the backing file", so that no zeros may stand in for it. Default false. */
  keepUnallocated?: boolean;
}

/**
 * Fills loaded data up to whole units of the target with the zeros around it, so that no unit is written in pieces. Units
 * without data, whole units and packed extents pass unchanged; the disk's last unit may be short.
 * @param unit the target's allocation unit in bytes
 */
export function align(unit: number, options: AlignOptions = {}): Transform {
  const aligner = new Aligner(unit, options.keepUnallocated ?? false);
  return mapBatches((batch) => aligner.take(batch), {
    flush: () => {
      const rest = aligner.finish();
      return rest.length > 0 ? new ExtentBatch(rest) : null;
    },
  });
}

class Aligner {
  readonly #unit: number;
  readonly #keepUnallocated: boolean;
  /** The pieces so far of a unit that is not complete. */
  #pieces: Extent[] = [];
  #out: Extent[] = [];

  constructor(unit: number, keepUnallocated: boolean) {
    if (!(Number.isSafeInteger(unit) && unit > 0)) throw new ImageError('invalid', `Cannot align to ${unit} bytes`);
    this.#unit = unit;
    this.#keepUnallocated = keepUnallocated;
  }

  take(batch: ExtentBatch): ExtentBatch | null {
    for (const each of batch) {
      if (this.#pieces.length > 0 && end(this.#pieces[this.#pieces.length - 1]) !== each.offset) this.#complete();
      if (each.packed) this.#pass(each);
      else this.#split(each);
    }
    // The batch's buffer may be released before the rest of the unit comes.
    this.#pieces = this.#pieces.map(own);
    const out = this.#out;
    this.#out = [];
    return out.length > 0 ? batch.with(out) : null;
  }

  finish(): Extent[] {
    this.#complete();
    return this.#out;
  }

  #pass(each: Extent): void {
    this.#complete();
    this.#out.push(each);
  }

  /** Head (up to a unit's end), whole units, tail. */
  #split(each: Extent): void {
    const unit = this.#unit;
    const headEnd = Math.min(end(each), Math.ceil(each.offset / unit) * unit);
    if (headEnd > each.offset) this.#piece(sliceExtent(each, each.offset, headEnd - each.offset));
    const tailStart = Math.max(headEnd, Math.floor(end(each) / unit) * unit);
    if (tailStart > headEnd) this.#out.push(sliceExtent(each, headEnd, tailStart - headEnd));
    if (end(each) > tailStart) this.#piece(sliceExtent(each, tailStart, end(each) - tailStart));
  }

  #piece(piece: Extent): void {
    this.#pieces.push(piece);
    if (end(piece) % this.#unit === 0) this.#complete();
  }

  #complete(): void {
    const pieces = this.#pieces;
    if (pieces.length === 0) return;
    this.#pieces = [];
    const data = pieces.some(({ kind }) => kind === 'data');
    const left = this.#keepUnallocated && pieces.some(({ kind }) => kind === 'unallocated');
    if (pieces.length === 1 || !data || left) this.#out.push(...pieces);
    else this.#out.push(joined(pieces));
  }
}

function end(each: Extent): number {
  return each.offset + each.length;
}

function own(piece: Extent): Extent {
  return piece.payload === null ? piece : { ...piece, payload: Buffer.from(piece.payload) };
}

/** One data extent with the contents of all pieces; a copy only where they do not lie side by side in memory. */
function joined(pieces: Extent[]): Extent {
  const [{ offset }] = pieces;
  const whole = extent(offset, end(pieces[pieces.length - 1]) - offset, 'data');
  whole.payload = contiguous(pieces) ?? filled(pieces, offset, whole.length);
  return whole;
}

function filled(pieces: Extent[], offset: number, length: number): Buffer {
  const buffer = Buffer.alloc(length);
  for (const piece of pieces) {
    if (piece.kind !== 'data') continue;
    if (piece.payload === null) throw new ImageError('invalid', 'align() needs loaded extents: put load() before it');
    piece.payload.copy(buffer, piece.offset - offset);
  }
  return buffer;
}

/** The one buffer that neighbouring payloads are parts of, if they are; see also sinks/writable.ts. */
export function contiguous(pieces: readonly Extent[]): Buffer | null {
  const [{ payload: first }] = pieces;
  if (first === null) return null;
  let length = 0;
  for (const { payload } of pieces) {
    if (payload === null || payload.buffer !== first.buffer) return null;
    if (payload.byteOffset !== first.byteOffset + length) return null;
    length += payload.length;
  }
  return Buffer.from(first.buffer as ArrayBuffer, first.byteOffset, length);
}
