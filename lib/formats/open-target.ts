import { ImageError } from '../core/errors.ts';
import type { Secrets } from '../crypto/secrets.ts';
import type { Target } from '../sinks/target.ts';
import { type NodeSpec, parseFilename } from '../sources/filename.ts';
import { createGate, type ImplicitPolicy } from '../sources/gate.ts';
import { takeNodeOptions } from '../sources/node-options.ts';
import { type OpenedImage, openImage } from '../sources/open.ts';
import type { Source } from '../sources/source.ts';
import type { CacheMode } from '../storage/storage.ts';
import { alsoClose } from './close.ts';
import type { Driver, OpenTargetRequest } from './driver.ts';
import { drivers as allDrivers } from './index.ts';

export interface OpenTargetOptions {
  /** Driver name; null or absent: as the node says, else probed. */
  format?: string | null;
  /** Default `writeback`. */
  cache?: CacheMode;
  drivers?: readonly Driver[];
  /** Whether files that images refer to may be opened. */
  implicit?: ImplicitPolicy;
  /** What `key-secret` options of the images name. */
  secrets?: Secrets;
}

/** Opens an existing image for writing, with its backing chain. Errors as openImage's. */
export async function openTarget(reference: NodeSpec | string, options: OpenTargetOptions = {}): Promise<Target> {
  const { cache = 'writeback', drivers = allDrivers(), implicit, secrets, format } = options;
  const node = typeof reference === 'string' ? parseFilename(reference) : reference;
  const opened = await openImage(node, { drivers, cache, implicit, secrets, format, writable: true });
  return targetOf(opened, { cache, drivers, implicit, secrets });
}

export interface TargetOfOptions extends Omit<OpenTargetOptions, 'format'> {
  /** What shows where the image is unallocated; default: its own chain, as it was opened. */
  backing?: Source | null;
}

/**
 * The writing half of an image that was opened with `writable`. Closing it closes the image, which is closed, too, where this
 * fails.
 */
export async function targetOf(opened: OpenedImage, options: TargetOfOptions = {}): Promise<Target> {
  const { drivers = allDrivers() } = options;
  try {
    const driver = drivers.find(({ name }) => name === opened.driver.name);
    if (driver?.openTarget === undefined) {
      throw new ImageError('unsupported', `Format driver '${opened.driver.name}' does not support writing`, {
        file: opened.filename,
      });
    }
    const target = await driver.openTarget(targetRequest(opened, options));
    // The reading half may hold a data file open; the storage stays open until the target lets go.
    return alsoClose(target, opened);
  } catch (error) {
    await opened.close().catch(() => {});
    throw error;
  }
}

/** What a driver is asked, to write to an image that was opened with `writable`. */
export function targetRequest(opened: OpenedImage, options: Omit<TargetOfOptions, 'drivers'>): OpenTargetRequest {
  const { cache = 'writeback', implicit, secrets, backing = opened.backing?.chain ?? null } = options;
  const given = takeNodeOptions(opened.node.options, { cache, writable: true });
  const gate = createGate({ implicit, cache: given.cache });
  const { storage } = opened;
  return { storage, options: given.options, writable: true, cache: given.cache, gate, secrets, backing };
}
