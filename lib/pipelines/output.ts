import { ImageError } from '../core/errors.ts';
import { type CreateImageOptions, createImage } from '../formats/create.ts';
import type { CreateRequest, Driver } from '../formats/driver.ts';
import { drivers as allDrivers } from '../formats/index.ts';
import { openTarget } from '../formats/open-target.ts';
import { StreamImpossible } from '../sinks/stream.ts';
import type { ExtentPlan, Target } from '../sinks/target.ts';
import { parseImageOpts } from '../sources/filename.ts';
import { STDIO_NAME, standardOutput } from '../storage/stdio.ts';
import type { CacheMode } from '../storage/storage.ts';
import { checkedDriver } from './checks.ts';
import { growing } from './growing.ts';
import { isStandardStream } from './input.ts';
import type { ImageReference, VerbOptions } from './reference.ts';
import { spoolOutput } from './spool-output.ts';

export interface OpenOutputOptions extends Pick<VerbOptions, 'drivers' | 'implicit' | 'secrets' | 'signal'> {
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
  /** Bitmaps will be added when all is written: into a pipe, such an image is spooled. */
  bitmaps?: boolean;
}

/**
 * Opens what a verb writes to. `-` is standard output: a seekable file where one was redirected to and it is
 * safe to write it at random, else a pipe. What can't be made in one pass (see StreamImpossible) is then made in a
 * temporary file and sent at the end; else the Target is `sequential`: extents must come in guest order, so
 * out-of-order stages put `order()` before it. What was left out reads as zeros. Throws an ImageError.
 */
export async function openOutput(reference: ImageReference, options: OpenOutputOptions): Promise<Target> {
  if (options.existing) return openExisting(reference, options);
  const { drivers = allDrivers(), implicit, secrets, size, createOptions = {}, backing, cache } = options;
  const request = { size: size ?? 0, options: createOptions, backing, cache, drivers, implicit, secrets };
  if (size === null) refusePreallocation(createOptions);
  if (isStandardStream(reference)) return openStandardOutput(request, options);
  if ('file' in reference || reference.imageOpts) {
    const node = 'file' in reference ? reference : parseImageOpts(reference.filename);
    return sized(await createImage({ ...request, node, format: options.format ?? node.driver ?? 'raw' }), size);
  }
  const { filename } = reference;
  return sized(await createImage({ ...request, filename, format: options.format ?? 'raw' }), size);
}

function openExisting(reference: ImageReference, options: OpenOutputOptions): Promise<Target> {
  const { drivers = allDrivers(), implicit, secrets, format, cache } = options;
  if (isStandardStream(reference)) {
    throw new ImageError('invalid', 'Standard output is always a new image', { file: STDIO_NAME, operation: 'open' });
  }
  if ('file' in reference) return openTarget(reference, { drivers, implicit, secrets, cache });
  if (reference.imageOpts) return openTarget(parseImageOpts(reference.filename), { drivers, implicit, secrets, cache });
  return openTarget(reference.filename, { drivers, implicit, secrets, format, cache });
}

/** Space for a disk can only be reserved when its size is known. */
function refusePreallocation({ preallocation = 'off' }: Readonly<Record<string, string>>): void {
  if (preallocation === 'off') return;
  throw new ImageError('unsupported', `preallocation=${preallocation} needs an input whose size is known`, {
    operation: 'create',
  });
}

async function sized(target: Target, size: number | null): Promise<Target> {
  if (size !== null || target.sequential) return target;
  try {
    return growing(target);
  } catch (error) {
    await target.abort();
    throw error;
  }
}

type Request = Omit<CreateImageOptions, 'format'> & { drivers: readonly Driver[] };

async function openStandardOutput(request: Request, options: OpenOutputOptions): Promise<Target> {
  const { size, cache, signal } = options;
  const format = options.format ?? 'raw';
  const driver = checkedDriver(format, request.drivers);
  const storage = await standardOutput(cache, signal);
  const common = { ...request, format, filename: STDIO_NAME, storage };
  if (storage.seekable) return sized(await createImage(common), size);
  // All that precedes the writing is the same as for a file; only the last step is another.
  const streaming: Driver = { ...driver, create: (each) => createInPipe(driver, each, options) };
  const drivers = request.drivers.map((each) => (each === driver ? streaming : each));
  return createImage({ ...common, drivers });
}

async function createInPipe(driver: Driver, request: CreateRequest, options: OpenOutputOptions): Promise<Target> {
  const { size, plan = null, compress = false, bitmaps = false } = options;
  try {
    if (driver.createStream !== undefined && !bitmaps)
      return await driver.createStream({ ...request, size, plan, compress });
  } catch (error) {
    if (!(error instanceof StreamImpossible)) throw error;
  }
  return sized(await spoolOutput(driver, request), size);
}
