import { Transform } from 'streamx';
import { batchWeight, type ExtentBatch } from '../core/extent.ts';
import { BATCH_STREAM } from '../core/streams.ts';

/**
 * Lets payload pass at a rate: batches wait their turn, and what takes no bytes takes no time.
 * @param bytesPerSecond above 0
 */
export function rate(bytesPerSecond: number): Transform {
  let due = 0;
  let timer: NodeJS.Timeout | null = null;
  let go: (() => void) | null = null;
  return new Transform({
    ...BATCH_STREAM,
    transform(data, callback) {
      const now = performance.now();
      const wait = due - now;
      // batchWeight counts one more than the payload.
      due = Math.max(due, now) + ((batchWeight(data as ExtentBatch) - 1) / bytesPerSecond) * 1000;
      if (wait <= 0) return callback(null, data);
      go = () => {
        go = null;
        callback(null, data);
      };
      timer = setTimeout(go, wait);
    },
    // A stage that is destroyed must not wait for its timer: streamx waits for the callback.
    predestroy() {
      if (timer !== null) clearTimeout(timer);
      go?.();
    },
  });
}
