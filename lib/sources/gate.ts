import { ImageError } from '../core/errors.ts';
import { tracePoint } from '../core/trace.ts';
import { openStorage, type ProtocolSpec } from '../storage/index.ts';
import type { CacheMode, Storage } from '../storage/storage.ts';
import { hasProtocol, parseFilename } from './filename.ts';
import { locksFor, type Sharing } from './sharing.ts';
import type { Gate, GateOpenOptions } from './source.ts';

/**
 * Asked before anything is opened that an image names (backing file, data file): the reference as the
 * image has it, and the name of the image.
 */
export type ImplicitPolicy = 'allow' | 'refuse' | ((reference: string, from: string) => boolean | Promise<boolean>);

export interface GateOptions {
  implicit?: ImplicitPolicy;
  cache?: CacheMode;
  /** For the locks of files that are opened for reading. */
  sharing?: Sharing;
}

/** The gate as open.ts uses it: for backing files it asks only, since opening one is more than a storage. */
export interface ImageGate extends Gate {
  /** Throws a `refused` ImageError unless the policy lets `reference`, found inside `from`, be opened. */
  admit(reference: string, from: Storage): Promise<void>;
}

const traceGate = tracePoint('gate_open');

/** Makes the gate of one image graph. */
export function createGate({ implicit = 'allow', cache, sharing }: GateOptions = {}): ImageGate {
  const admit = async (reference: string, from: Storage): Promise<void> => {
    const allowed = typeof implicit === 'function' ? await implicit(reference, from.name) : implicit === 'allow';
    if (traceGate.enabled) traceGate.emit({ reference, from: from.name, allowed });
    if (!allowed) {
      throw new ImageError('refused', `The image refers to '${reference}', which may not be opened`, {
        file: from.name,
        operation: 'open',
      });
    }
  };
  return {
    admit,
    async openStorage(reference, from, options = {}) {
      await admit(reference, from);
      return openBeside(from, referenceSpec(reference, from), { ...options, cache, sharing });
    },
  };
}

export interface OpenBesideOptions extends GateOpenOptions {
  cache?: CacheMode;
  sharing?: Sharing;
}

/** Opens and locks a file of the image that lies in `main`. */
export async function openBeside(main: Storage, spec: ProtocolSpec, options: OpenBesideOptions): Promise<Storage> {
  const { role, writable = false, create, cache, sharing } = options;
  const storage = await openStorage(spec, { writable, create, cache });
  if (role === undefined) return storage;
  try {
    // Who reads an image and who writes to it open its files each for himself.
    await storage.lock?.({ ...locksFor(role, writable, sharing), image: main });
    return storage;
  } catch (error) {
    await storage.close().catch(() => {});
    throw error;
  }
}

/**
 * What a reference inside an image means: relative to the image's directory, unless it carries a
 * protocol or is a `json:` description, which QEMU takes relative to the working directory.
 */
export function referenceSpec(reference: string, from: Storage): ProtocolSpec {
  if (hasProtocol(reference)) return parseFilename(reference).file;
  return { driver: 'file', filename: from.resolve(reference) };
}
