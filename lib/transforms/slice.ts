import type { Transform } from 'streamx';
import { type Extent, type ExtentBatch, sliceExtent } from '../core/extent.ts';
import { mapBatches } from '../core/streams.ts';
import { shifter } from './shift.ts';

export interface SliceOptions {
  /** First guest byte to keep; default 0. */
  offset?: number;
  /** Guest bytes to keep; default: all that follow. */
  length?: number;
  /** Guest offset at which what is kept shall begin; default: where it was. */
  to?: number;
}

/** Keeps a range of the disk, and moves it if asked to; loaded or not. */
export function slice(options: SliceOptions = {}): Transform {
  const { offset = 0, length = Number.POSITIVE_INFINITY, to = offset } = options;
  const end = offset + length;
  const shift = shifter(to - offset);
  return mapBatches((batch) => {
    const kept: Extent[] = [];
    for (const each of batch) {
      const from = Math.max(offset, each.offset);
      const stop = Math.min(end, each.offset + each.length);
      if (stop > from) kept.push(shift(sliceExtent(each, from, stop - from)));
    }
    return kept.length > 0 ? batch.with(kept) : dropped(batch);
  });
}

function dropped(batch: ExtentBatch): null {
  batch.release();
  return null;
}
