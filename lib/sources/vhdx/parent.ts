import { ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import { parentFilename } from '../../layouts/vhdx/index.ts';
import type { BackingReference, SourceRequest } from '../source.ts';
import { readHeader, type VhdxHead } from './head.ts';

const traceParent = tracePoint('vhdx_check_parent');

/** Where the parent is: a VHDX file too. Null for a disk that has none, or whose locator names none. */
export function parentReference({ locator }: VhdxHead): BackingReference | null {
  const filename = locator === null ? null : parentFilename(locator);
  return filename === null ? null : { filename, format: 'vhdx' };
}

/**
 * Compares the parent's DataWriteGuid with the one that the locator has (section 2.6.2.6.3): a parent that was written
 * to no longer fits its child. `corrupt` where it doesn't; a parent that can't be opened is whoever's business opens
 * the chain.
 */
export async function checkLinkage({ locator }: VhdxHead, { storage, gate }: SourceRequest): Promise<void> {
  const filename = locator === null ? null : parentFilename(locator);
  if (locator === null || filename === null || locator.linkages.length === 0) return;
  const guid = await writeGuidOf(filename, { storage, gate });
  if (traceParent.enabled) traceParent.emit({ file: storage.name, parent: filename, guid });
  if (guid === null || locator.linkages.includes(guid)) return;
  throw new ImageError('corrupt', `The parent '${filename}' is not what it was when the differencing disk was made`, {
    file: storage.name,
    format: 'vhdx',
  });
}

async function writeGuidOf(filename: string, { storage, gate }: Pick<SourceRequest, 'storage' | 'gate'>) {
  try {
    const parent = await gate.openStorage(filename, storage);
    try {
      return (await readHeader(parent)).header.dataWriteGuid;
    } finally {
      await parent.close();
    }
  } catch (error) {
    if (error instanceof ImageError) return null;
    throw error;
  }
}
