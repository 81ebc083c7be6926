import { createImage } from '../formats/create.ts';
import { drivers as allDrivers } from '../formats/index.ts';
import { openTarget } from '../formats/open-target.ts';
import type { ExtentPlan, Target } from '../sinks/target.ts';
import { parseImageOpts } from '../sources/filename.ts';
import type { CacheMode } from '../storage/storage.ts';
import type { ImageReference, VerbOptions } from './reference.ts';

export interface OpenOutputOptions extends Pick<VerbOptions, 'drivers' | 'implicit' | 'signal'> {
  /** Driver name of a new image; null probes an existing one. */
  format: string | null;
  /** True: the image exists (`-n`) and is opened, not made. */
  existing?: boolean;
  /**
   * Guest size of a new image in bytes; null where the input's end is not known: the target then grows with
   * what is written, and gets its size in `close`. Unused with `existing`.
   */
  size: number | null;
  /** `-o` pairs, as text. */
  createOptions?: Readonly<Record<string, string>>;
  backing?: { filename: string; format?: string | null; unsafe?: boolean };
  cache?: CacheMode;
  /**
   * The extents that will be written, for an output that needs its map before its data (qcow2 into a pipe).
   * Null (a forward input): such an output is spooled. It is walked more than once and must say the same each time;
   * what is then written as data must lie in its data extents.
   */
  plan?: ExtentPlan | null;
  /** `writeCompressed` will be used: into a pipe, such an image is spooled. */
  compress?: boolean;
}

/**
 * Opens what a verb writes to. `-` is standard output: a seekable file where one was redirected to and it is
 * safe to write it at random, else a Target with `sequential`: extents must then come in guest order, so
 * out-of-order stages put `order()` before it. What was left out reads as zeros. Throws an ImageError.
 */
export async function openOutput(reference: ImageReference, options: OpenOutputOptions): Promise<Target> {
  const { drivers = allDrivers(), implicit, format, size, createOptions = {}, backing, cache } = options;
  if (options.existing) return openExisting(reference, options);
  if ('file' in reference || reference.imageOpts) {
    const node = 'file' in reference ? reference : parseImageOpts(reference.filename);
    return createImage({
      node,
      format: format ?? node.driver ?? 'raw',
      size,
      options: createOptions,
      backing,
      cache,
      drivers,
      implicit,
    });
  }
  const { filename } = reference;
  return createImage({
    filename,
    format: format ?? 'raw',
    size,
    options: createOptions,
    backing,
    cache,
    drivers,
    implicit,
  });
}

function openExisting(reference: ImageReference, options: OpenOutputOptions): Promise<Target> {
  const { drivers = allDrivers(), implicit, format, cache } = options;
  if ('file' in reference) return openTarget(reference, { drivers, implicit, cache });
  if (reference.imageOpts) return openTarget(parseImageOpts(reference.filename), { drivers, implicit, cache });
  return openTarget(reference.filename, { drivers, implicit, format, cache });
}
