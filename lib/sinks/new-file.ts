import { ImageError } from '../core/errors.ts';
import type { AnyOptionValues } from '../core/options.ts';
import { checkFileTuning, tuneNewFile } from '../storage/index.ts';
import type { Storage } from '../storage/storage.ts';

const PREALLOCATIONS = ['off', 'falloc', 'full'];

/**
 * Empties the file of a new image and applies the options of the file protocol, for formats that have no
 * `preallocation` of their own. QEMU makes the file empty and lets the format grow it, so that `falloc` and `full` find
 * nothing to allocate; what makes no sense is refused, in its words, before the file is touched. A device stays as it
 * is.
 */
export async function startNewFile(storage: Storage, options: AnyOptionValues, format: string): Promise<void> {
  const { preallocation = 'off' } = options;
  const context = { file: storage.name, format, operation: 'create' };
  if (preallocation === 'metadata') {
    throw new ImageError('unsupported', 'Unsupported preallocation mode: metadata', context);
  }
  if (!PREALLOCATIONS.includes(String(preallocation))) {
    throw new ImageError('invalid', `invalid parameter value: ${String(preallocation)}`, context);
  }
  if (storage.fixedSize) return;
  checkFileTuning(storage, options);
  if (storage.size > 0) await storage.truncate(0);
  await tuneNewFile(storage, options);
}
