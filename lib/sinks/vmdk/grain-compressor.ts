import { deflateZlib } from '../../core/codecs.ts';
import { GRAIN_BYTES } from '../../layouts/vmdk/index.ts';
import type { ClusterCompressor } from '../target.ts';

/** Compresses grains of a stream-optimized extent: always, since it has no plain ones. */
export const grainCompressor: ClusterCompressor = {
  unit: GRAIN_BYTES,
  compress(plain) {
    if (plain.length === GRAIN_BYTES) return deflateZlib(plain);
    const whole = Buffer.alloc(GRAIN_BYTES);
    plain.copy(whole);
    return deflateZlib(whole);
  },
};
