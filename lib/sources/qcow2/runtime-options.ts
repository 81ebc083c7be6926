import { defineOptions, parseOptions } from '../../core/options.ts';
import { refuseUnknownOptions } from '../node-options.ts';

/**
 * Runtime options of a qcow2 node (QAPI, BlockdevOptionsQcow2) that decide how QEMU caches, discards or
 * checks while a guest runs. They change nothing of what is read, and are checked all the same: a value that
 * QEMU refuses is a mistake. `encrypt.*` is held against the header elsewhere.
 */
const TUNING = defineOptions({
  'lazy-refcounts': { type: 'bool', help: 'Postpone refcount updates' },
  'pass-discard-request': { type: 'bool', help: 'Pass guest discard requests to the layer below' },
  'pass-discard-snapshot': { type: 'bool', help: 'Generate discard requests when snapshot related space is freed' },
  'pass-discard-other': { type: 'bool', help: 'Generate discard requests when other clusters are freed' },
  'cache-size': { type: 'size', help: 'Maximum combined metadata (L2 tables and refcount blocks) cache size' },
  'l2-cache-size': { type: 'size', help: 'Maximum L2 table cache size' },
  'l2-cache-entry-size': { type: 'size', help: 'Size of each entry in the L2 cache' },
  'refcount-cache-size': { type: 'size', help: 'Maximum refcount block cache size' },
  'cache-clean-interval': { type: 'number', help: 'Clean unused cache entries after this time (in seconds)' },
});

/** Throws an `invalid` ImageError, in qemu-img's words, for an option that is unknown or has a wrong value. */
export function checkRuntimeOptions(options: Readonly<Record<string, unknown>>): void {
  refuseUnknownOptions('qcow2', options, ['data-file', 'encrypt', ...Object.keys(TUNING)]);
  const tuning = Object.entries(options).filter(([key]) => key !== 'data-file' && key.split('.')[0] !== 'encrypt');
  parseOptions(TUNING, Object.fromEntries(tuning));
}
