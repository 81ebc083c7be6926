import { ImageError } from '../core/errors.ts';
import { refuseUnknownOptions } from './node-options.ts';
import type { SourceRequest } from './source.ts';

/** What a format that nobody writes checks first: no writing, and it has no runtime options. In qemu-img's words. */
export function refuseBeyondReading(format: string, { writable, options }: SourceRequest): void {
  if (writable) throw new ImageError('refused', 'Image is read-only', { format });
  refuseUnknownOptions(format, options, []);
}
