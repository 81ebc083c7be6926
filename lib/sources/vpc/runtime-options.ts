import { ImageError } from '../../core/errors.ts';
import type { SizeCalculation } from '../../layouts/vpc/index.ts';
import { refuseUnknownOptions } from '../node-options.ts';

const CALCULATIONS: readonly string[] = ['chs', 'current_size'];

/** The runtime option `force_size_calc`, in QEMU's words where it is none; null where it is not given. */
export function sizeCalculation(options: Readonly<Record<string, unknown>>): SizeCalculation | null {
  refuseUnknownOptions('vpc', options, ['force_size_calc']);
  const { force_size_calc: given } = options;
  if (given === undefined) return null;
  if (typeof given === 'string' && CALCULATIONS.includes(given)) return given as SizeCalculation;
  throw new ImageError('invalid', `Invalid size calculation mode: '${String(given)}'`);
}
