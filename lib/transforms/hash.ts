import { createHash } from 'node:crypto';
import type { Transform } from 'streamx';
import { ImageError } from '../core/errors.ts';
import { zeroBlock } from '../core/pool.ts';
import { mapBatches } from '../core/streams.ts';

/** A stage that passes batches on, and knows the digest of the guest disk's bytes when they have passed. */
export interface HashStage extends Transform {
  /** Hexadecimal; call it once, after the stream has ended. */
  digest(): string;
}

/**
 * Hashes the guest's bytes, zeros included, as they pass: loaded, in guest order, not yet compressed.
 * @param algorithm as `crypto.createHash` knows it: `sha256`
 */
export function hash(algorithm: string): HashStage {
  const state = createHash(algorithm);
  const stage = mapBatches((batch) => {
    for (const { kind, length, payload, packed, offset } of batch) {
      if (packed || (kind === 'data' && payload === null)) {
        throw new ImageError('invalid', 'hash() needs loaded, uncompressed extents', { offset });
      }
      if (payload !== null) state.update(payload);
      else for (let rest = length; rest > 0; rest -= zeroBlock().length) state.update(zeroBlock().subarray(0, rest));
    }
    return batch;
  });
  return Object.assign(stage, { digest: () => state.digest('hex') });
}
