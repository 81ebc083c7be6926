import { ImageError } from '../../core/errors.ts';
import { defineOptions, parseOptions } from '../../core/options.ts';
import { refuseUnknownOptions } from '../node-options.ts';

/** Runtime options of a Parallels node: how the file grows while it is written to. */
const RUNTIME_OPTIONS = defineOptions({
  'prealloc-size': { type: 'size', help: 'Preallocation size on image expansion' },
  'prealloc-mode': { type: 'string', help: 'Preallocation mode on image expansion (falloc, truncate)' },
});

/** How far beyond what is needed the file grows at a time. What is left over is cut off at the end. */
export interface Preallocation {
  /** Bytes. */
  size: number;
  /** `falloc` reserves the space, `truncate` only sets the file's length. */
  mode: 'falloc' | 'truncate';
}

/** QEMU's, where either option is given. Without them nothing is allocated before it is needed. */
const DEFAULT_SIZE = 128 * 1024 * 1024;

/** Checks the options, in qemu-img's words; null where they don't speak of preallocation. */
export function preallocationOf(options: Readonly<Record<string, unknown>>): Preallocation | null {
  refuseUnknownOptions('parallels', options, Object.keys(RUNTIME_OPTIONS));
  const { 'prealloc-size': size, 'prealloc-mode': mode } = parseOptions(RUNTIME_OPTIONS, options);
  if (mode !== undefined && mode !== 'falloc' && mode !== 'truncate') {
    throw new ImageError('invalid', `invalid parameter value: ${mode}`, { format: 'parallels' });
  }
  if (size === undefined && mode === undefined) return null;
  return { size: size ?? DEFAULT_SIZE, mode: mode ?? 'falloc' };
}
