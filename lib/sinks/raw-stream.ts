import { alignUp } from '../core/binary.ts';
import { ImageError } from '../core/errors.ts';
import { SECTOR } from '../sources/raw.ts';
import type { Storage } from '../storage/storage.ts';
import { ForwardTarget } from './forward-target.ts';
import type { RawCreateOptions } from './raw.ts';
import type { Target } from './target.ts';

/**
 * A raw disk into a pipe: bytes in guest order, zeros where nothing is written. `size` null: the disk ends with the
 * last byte that is written or zeroed.
 */
export function streamRaw(storage: Storage, size: number | null, options: RawCreateOptions = {}): Target {
  const { preallocation = 'off', nocow = false, extent_size_hint: hint } = options;
  if (preallocation !== 'off' || nocow !== false || hint !== undefined) {
    throw new ImageError('unsupported', 'A pipe has no space to preallocate or to tune', { file: storage.name });
  }
  return new RawStream(storage, size === null ? null : alignUp(size, SECTOR));
}

class RawStream extends ForwardTarget {
  readonly format = 'raw';

  protected override put(start: number, end: number, bytes: Buffer | null): Promise<void> {
    return bytes === null ? this.storage.zero(start, end - start) : this.storage.write(start, bytes);
  }

  protected override finish(): Promise<void> {
    return this.fillTo(this.size);
  }
}
