import { ImageError } from '../../core/errors.ts';
import {
  decodeBitmapDirectory,
  decodeBitmapsExtension,
  ExtensionType,
  encodeBitmapDirectory,
  findExtension,
} from '../../layouts/qcow2/index.ts';
import { readPadded } from '../../storage/storage.ts';
import type { Qcow2Image } from './image.ts';

/**
 * Persistent bitmaps before the image's first change. Those that record writes are marked in use, since this
 * writer records nothing: whoever reads them knows then that they can't be relied on ("Bitmap directory",
 * flags). Those that are disabled stay as valid as they were.
 * @returns whether the bitmaps are consistent, so that their autoclear bit may stay set
 */
export async function distrustBitmaps(image: Qcow2Image): Promise<boolean> {
  const { storage, tail } = image;
  const data = findExtension(tail.extensions, ExtensionType.bitmaps);
  if (data === null) return false;
  try {
    const { count, directoryBytes, directoryOffset } = decodeBitmapsExtension(data);
    if (directoryOffset + directoryBytes > storage.size) return false;
    const directory = Buffer.alloc(directoryBytes);
    await readPadded(storage, directoryOffset, directory);
    const bitmaps = decodeBitmapDirectory(directory, count);
    if (!bitmaps.some(({ auto, inUse }) => auto && !inUse)) return true;
    const marked = encodeBitmapDirectory(bitmaps.map((each) => (each.auto ? { ...each, inUse: true } : each)));
    await storage.write(directoryOffset, marked);
    return true;
  } catch (error) {
    // A directory that lies is no reason not to write: without its autoclear bit nobody looks at it.
    if (error instanceof ImageError && error.kind === 'corrupt') return false;
    throw error;
  }
}
