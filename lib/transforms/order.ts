import { Transform } from 'streamx';
import { ImageError } from '../core/errors.ts';
import type { ExtentBatch } from '../core/extent.ts';
import { batchWeight } from '../core/extent.ts';
import { BATCH_STREAM } from '../core/streams.ts';

export interface OrderOptions {
  /** Guest offset of the first batch; default 0. */
  start?: number;
  /** Bytes of payload to hold back at the most; default 256 MiB. */
  limit?: number;
}

/**
 * Puts batches that come out of order (but without gap or overlap) back into guest order. Fails with an ImageError
 * where a batch is missing so long that more than `limit` would have to wait for it.
 */
export function order(options: OrderOptions = {}): Transform {
  const { start = 0, limit = 256 * 1024 * 1024 } = options;
  const waiting = new Map<number, ExtentBatch>();
  let next = start;
  let held = 0;
  return new Transform({
    ...BATCH_STREAM,
    transform(data, callback) {
      const batch = data as ExtentBatch;
      if (batch.offset < next || waiting.has(batch.offset)) return callback(misplaced(batch.offset), null);
      waiting.set(batch.offset, batch);
      held += batchWeight(batch);
      for (let ready = waiting.get(next); ready !== undefined; ready = waiting.get(next)) {
        waiting.delete(next);
        held -= batchWeight(ready);
        next = ready.end;
        this.push(ready);
      }
      callback(held > limit ? misplaced(next) : null, null);
    },
    flush(callback) {
      callback(waiting.size > 0 ? misplaced(next) : null);
    },
  });
}

function misplaced(offset: number): ImageError {
  return new ImageError('invalid', `Extents around offset ${offset} are missing or come twice`, { offset });
}
