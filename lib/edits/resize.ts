import { ImageError } from '../core/errors.ts';
import { tracePoint } from '../core/trace.ts';
import type { Secrets } from '../crypto/secrets.ts';
import type { Driver } from '../formats/driver.ts';
import { openTarget } from '../formats/open-target.ts';
import type { NodeSpec } from '../sources/filename.ts';
import type { ImplicitPolicy } from '../sources/gate.ts';
import type { CacheMode } from '../storage/storage.ts';

export interface ResizeOptions {
  /** A filename, or a node. */
  image: NodeSpec | string;
  /** Driver name; null or absent: as the node says, else probed. */
  format?: string | null;
  /** Guest bytes: the new size, or with `relative` what is added to the old one (negative: taken away). */
  size: number;
  relative?: boolean;
  /** The disk may become shorter. Default false: such a size is `refused`. */
  shrink?: boolean;
  /** Of what is added: `off` (default), `metadata`, `falloc` or `full`, as far as the format can. */
  preallocation?: string;
  /** Default `writeback`. */
  cache?: CacheMode;
  drivers?: readonly Driver[];
  /** Whether files that images refer to may be opened. */
  implicit?: ImplicitPolicy;
  /** What `key-secret` options of the images name. */
  secrets?: Secrets;
}

/** The operation of the error for a disk that would become shorter without `shrink`. */
export const SHRINK_OPERATION = 'shrink';

const traceResize = tracePoint('image_resize');

/**
 * Changes the size of an image's disk, and resolves to the new one: `qemu-img resize`. What is added reads as zeros. Rejects with
 * an ImageError, and the image is then as it was, unless the file system failed on the way.
 */
export async function resize(options: ResizeOptions): Promise<number> {
  const { image, format, cache, drivers, implicit, secrets, preallocation = 'off' } = options;
  const target = await openTarget(image, { format, cache, drivers, implicit, secrets });
  try {
    const size = options.relative === true ? target.size + options.size : options.size;
    check(target.size, size, options, target.format);
    if (target.truncate === undefined) throw refused('unsupported', 'Image format driver does not support resize');
    if (traceResize.enabled) traceResize.emit({ file: target.name, from: target.size, to: size });
    await target.truncate(size, { preallocation });
  } catch (error) {
    await target.abort().catch(() => {});
    throw error;
  }
  const { size } = target;
  await target.close();
  return size;
}

function check(old: number, size: number, { shrink, preallocation = 'off' }: ResizeOptions, format: string): void {
  if (size <= 0) throw refused('invalid', 'New image size must be positive');
  if (size > Number.MAX_SAFE_INTEGER) throw refused('unsupported', 'The new size is too large for this program');
  if (size <= old && preallocation !== 'off') {
    throw refused('invalid', 'Preallocation can only be used for growing images');
  }
  if (size < old && shrink !== true) {
    throw new ImageError('refused', 'Use the --shrink option to perform a shrink operation.', {
      format,
      operation: SHRINK_OPERATION,
    });
  }
}

function refused(kind: 'invalid' | 'unsupported', message: string): ImageError {
  return new ImageError(kind, message, { operation: 'resize' });
}
