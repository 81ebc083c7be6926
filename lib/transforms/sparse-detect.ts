import type { Transform } from 'streamx';
import { ImageError } from '../core/errors.ts';
import { type Extent, type ExtentBatch, sliceExtent } from '../core/extent.ts';
import { isZero } from '../core/pool.ts';
import { mapBatches } from '../core/streams.ts';

export interface SparseDetectOptions {
  /** Shortest run of zeros, in bytes, that becomes a zero extent: `-S`. Default 4096; 0 passes everything. */
  size?: number;
  /** The target's allocation unit in bytes: zeros are looked for in whole units, as less saves nothing. Default 1. */
  unit?: number;
}

/**
 * Turns runs of zeros in loaded data into zero extents. Looked for in aligned blocks: the largest power of two not above
 * `size`, or the unit where that is larger; as `qemu-img convert -S` does.
 */
export function sparseDetect(options: SparseDetectOptions = {}): Transform {
  const { size = 4096, unit = 1 } = options;
  if (!(Number.isSafeInteger(size) && size >= 0)) throw new ImageError('invalid', `Invalid sparse size ${size}`);
  if (size === 0) return mapBatches((batch) => batch);
  const block = Math.max(2 ** Math.floor(Math.log2(size)), unit);
  const shortest = Math.max(size, block);
  return mapBatches((batch) => detect(batch, block, shortest));
}

function detect(batch: ExtentBatch, block: number, shortest: number): ExtentBatch {
  const out: Extent[] = [];
  let changed = false;
  for (const each of batch) {
    if (each.kind !== 'data' || each.payload === null || each.packed) {
      out.push(each);
      continue;
    }
    const before = out.length;
    cut(each, each.payload, block, shortest, out);
    changed ||= out.length !== before + 1 || out[before] !== each;
  }
  return changed ? batch.with(out) : batch;
}

/** Appends the alternating runs of data and zeros of one extent. */
function cut(from: Extent, payload: Buffer, block: number, shortest: number, out: Extent[]): void {
  let dataStart = 0;
  for (let at = 0; at < from.length; ) {
    const zeroEnd = zeroRun(from.offset, payload, at, block);
    // A run that touches the extent's edge may go on beyond it: it is never too short.
    if (zeroEnd - at >= shortest || (zeroEnd > at && (at === 0 || zeroEnd === from.length))) {
      if (at > dataStart) out.push(sliceExtent(from, from.offset + dataStart, at - dataStart));
      out.push(zeroPart(from, at, zeroEnd - at));
      dataStart = zeroEnd;
    }
    at = zeroEnd > at ? zeroEnd : blockEnd(from.offset, at, block, from.length);
  }
  if (dataStart < from.length) {
    out.push(sliceExtent(from, from.offset + dataStart, from.length - dataStart));
  }
}

/** Where the zero blocks from `at` on end; `at` where there are none. */
function zeroRun(offset: number, payload: Buffer, at: number, block: number): number {
  let end = at;
  while (end < payload.length) {
    const next = blockEnd(offset, end, block, payload.length);
    if (!isZero(payload, end, next)) break;
    end = next;
  }
  return end;
}

/** End of the aligned block that `at` lies in, both relative to the extent. */
function blockEnd(offset: number, at: number, block: number, length: number): number {
  return Math.min(length, (Math.floor((offset + at) / block) + 1) * block - offset);
}

function zeroPart(from: Extent, at: number, length: number): Extent {
  return { ...from, offset: from.offset + at, length, kind: 'zero', payload: null, host: null, hostOffset: -1 };
}
