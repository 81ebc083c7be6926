import { ImageError } from '../core/errors.ts';
import { parseOptions } from '../core/options.ts';
import type { Secrets } from '../crypto/secrets.ts';
import type { Driver } from '../formats/driver.ts';
import { drivers as allDrivers } from '../formats/index.ts';
import { targetRequest } from '../formats/open-target.ts';
import { type NodeSpec, parseFilename } from '../sources/filename.ts';
import type { ImplicitPolicy } from '../sources/gate.ts';
import { openImage } from '../sources/open.ts';
import type { CacheMode } from '../storage/storage.ts';

export interface AmendOptions {
  /** A filename, or a node. */
  image: NodeSpec | string;
  /** Driver name; null or absent: as the node says, else probed. */
  format?: string | null;
  /** What `-o` takes: `{ compat: '0.10' }`. */
  options: Readonly<Record<string, unknown>>;
  /** Do what could lose access to the data too. */
  force?: boolean;
  /** Default `writeback`. */
  cache?: CacheMode;
  drivers?: readonly Driver[];
  /** Whether files that images refer to may be opened. */
  implicit?: ImplicitPolicy;
  /** What `key-secret` options of the images name. */
  secrets?: Secrets;
  /** Part done, from 0 to 1. */
  onProgress?: (part: number) => void;
}

/** Changes what an image was made with. Rejects with an ImageError; what can't be is refused before anything is changed. */
export async function amend(options: AmendOptions): Promise<void> {
  const {
    image,
    format,
    cache = 'writeback',
    drivers = allDrivers(),
    implicit,
    secrets,
    force = false,
    onProgress,
  } = options;
  const node = typeof image === 'string' ? parseFilename(image) : image;
  const opened = await openImage(node, { drivers, format, cache, implicit, secrets, writable: true });
  try {
    const driver = amendingDriver(opened.driver.name, drivers);
    // Of an image that bears several writers the header, which is to be written, is locked only now.
    if (driver.plain) await opened.storage.lock?.({ uses: [], denies: ['consistent read', 'write'] });
    await driver.amend({
      ...targetRequest(opened, { cache, implicit, secrets }),
      values: parseValues(driver, options.options),
      force,
      onProgress,
    });
  } finally {
    await opened.close();
  }
}

type AmendingDriver = Driver & Required<Pick<Driver, 'amend' | 'amendOptions'>>;

/** The driver of that name; ImageError `unsupported` where its images can't be amended. */
export function amendingDriver(name: string, drivers: readonly Driver[] = allDrivers()): AmendingDriver {
  const driver = drivers.find((each) => each.name === name);
  if (driver === undefined) throw new ImageError('invalid', `Unknown file format '${name}'`);
  if (driver.amend === undefined || driver.amendOptions === undefined) {
    throw new ImageError('unsupported', `Format driver '${name}' does not support option amendment`, { format: name });
  }
  return driver as AmendingDriver;
}

function parseValues({ amendOptions, createOptions = {} }: AmendingDriver, given: AmendOptions['options']) {
  for (const key of Object.keys(given)) {
    if (Object.hasOwn(amendOptions, key) || !Object.hasOwn(createOptions, key)) continue;
    throw new ImageError('invalid', `Invalid parameter '${key}'\nThis option is only supported for image creation`);
  }
  return parseOptions(amendOptions, given);
}
