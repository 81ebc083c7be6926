import type { Transform } from 'streamx';
import { mapBatches } from '../core/streams.ts';

/** @param done guest bytes passed so far  @param total as given to `progress` */
export type OnProgress = (done: number, total: number) => void;

/** Tells how far the batches that pass have come; `done` only rises, also where they come out of order. */
export function progress(total: number, onProgress: OnProgress): Transform {
  let done = 0;
  return mapBatches((batch) => {
    for (const { length } of batch) done += length;
    onProgress(Math.min(done, total), total);
    return batch;
  });
}
