import { ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import { type ParentLocator, parentPath, parentPathOfName } from '../../layouts/vpc/index.ts';
import type { Storage } from '../../storage/storage.ts';
import { inContext } from '../context.ts';
import type { BackingReference, Source, SourceRequest } from '../source.ts';
import { type DynamicHead, readHead, type VpcHead } from './head.ts';

/** No path is longer. */
const MAX_LOCATOR_BYTES = 64 * 1024;
/** The platforms whose names mean something here, the surest first: relative ones move with the images. */
const PLATFORMS: readonly string[] = ['W2ru', 'MacX', 'W2ku'];

const traceParent = tracePoint('vpc_parent');

/**
 * Where the parent of a differencing disk is ("Parent Locator Entry"). Of several names the first that leads to the
 * image with the right unique ID, else to any; where none can be opened, the first, so that whoever opens the chain
 * says what is wrong with it.
 */
export async function findParent(head: DynamicHead, request: SourceRequest): Promise<BackingReference> {
  const paths = await parentPaths(head, request.storage);
  if (paths.length === 0) throw new ImageError('corrupt', 'The differencing disk does not name its parent');
  const isOnly = paths.length === 1 || request.metadataOnly === true;
  const found = isOnly ? paths[0] : await firstMatch(paths, head, request);
  if (traceParent.enabled) traceParent.emit({ file: request.storage.name, names: paths.length, parent: found });
  // Not probed: a fixed disk begins with anything.
  return { filename: found, format: 'vpc' };
}

async function parentPaths({ dynamic }: DynamicHead, storage: Storage): Promise<string[]> {
  const paths = new Set<string>();
  for (const platform of PLATFORMS) {
    for (const locator of dynamic.parentLocators) {
      if (locator.platform !== platform) continue;
      const bytes = await readLocator(locator, storage);
      const path = bytes === null ? null : parentPath(platform, bytes);
      if (path !== null) paths.add(path);
    }
  }
  const named = parentPathOfName(dynamic.parentName);
  if (named !== null) paths.add(named);
  return [...paths];
}

async function readLocator({ offset, length }: ParentLocator, storage: Storage): Promise<Buffer | null> {
  if (length === 0 || length > MAX_LOCATOR_BYTES || offset + length > storage.size) return null;
  const bytes = Buffer.alloc(length);
  await storage.read(offset, bytes);
  return bytes;
}

async function firstMatch(paths: readonly string[], head: DynamicHead, request: SourceRequest): Promise<string> {
  let other: string | null = null;
  for (const path of paths) {
    const id = await uniqueIdOf(path, request);
    if (id?.equals(head.dynamic.parentUniqueId)) return path;
    if (id !== null) other ??= path;
  }
  return other ?? paths[0];
}

/** Unique IDs of the disks that were opened. */
const uniqueIds = new WeakMap<Source, Buffer>();

/** Remembers whose ID it is, for children that are opened above it. */
export function rememberId<S extends Source>(source: S, { footer }: VpcHead): S {
  uniqueIds.set(source, footer.uniqueId);
  return source;
}

/** `refused` where the parent is a VHD other than the one that the disk was made upon. */
export function checkParent({ dynamic }: DynamicHead, parent: Source): void {
  const id = uniqueIds.get(parent);
  if (id === undefined || id.equals(dynamic.parentUniqueId)) return;
  throw new ImageError(
    'refused',
    `'${parent.name}' is not the parent that the image was made for: its unique ID differs`,
  );
}

/** Null where it can't be opened, or is no VHD. */
async function uniqueIdOf(path: string, { storage, gate }: SourceRequest): Promise<Buffer | null> {
  let parent: Storage | null = null;
  try {
    parent = await gate.openStorage(path, storage);
    return (await readHead(parent, null)).footer.uniqueId;
  } catch (error) {
    const known = inContext(error, path, 'vpc');
    if (known instanceof ImageError) return null;
    throw known;
  } finally {
    await parent?.close();
  }
}
