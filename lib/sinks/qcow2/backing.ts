import { ImageError } from '../../core/errors.ts';
import {
  Autoclear,
  ExtensionType,
  encodeHead,
  type HeaderExtension,
  MAX_BACKING_NAME,
} from '../../layouts/qcow2/index.ts';
import type { BackingReference } from '../../sources/source.ts';
import type { Qcow2Image } from './image.ts';

/**
 * Changes what the header says of a backing file: its name, and the extension for its format. All that was written before is
 * on the disk first, and the header in one write. Under the metadata lock. Leaves the image as it was where the header
 * has no room (`no-space`) or the name can't be (`invalid`).
 */
export async function setBacking(image: Qcow2Image, backing: BackingReference | null): Promise<void> {
  const { storage, header, tail } = image;
  const context = { file: storage.name, format: 'qcow2', operation: 'change backing file' };
  // QEMU has no image with both either: whoever reads the data file as a raw disk would not see the backing file.
  const isRaw = (header.autoclear & Autoclear.rawDataFile) !== 0n;
  if (backing !== null && (isRaw || Buffer.byteLength(backing.filename) > MAX_BACKING_NAME)) {
    throw new ImageError('invalid', 'Invalid argument', context);
  }
  const changed = {
    extensions: withFormat(tail.extensions, backing?.format ?? null),
    backingFile: backing?.filename ?? null,
  };
  if (encodeHead({ ...header }, changed) === null) {
    throw new ImageError('no-space', 'No space left in the file header', { ...context, code: 'ENOSPC' });
  }
  await image.commit();
  await image.commit();
  await storage.flush();
  Object.assign(tail, changed);
  // Guest data stay what they were, and so do bitmaps; what is unknown here can't be vouched for.
  header.autoclear &= Autoclear.bitmaps | Autoclear.rawDataFile;
  await image.writeHeader();
  await storage.flush();
}

/** The extensions with the format named in the first of them, where QEMU has it, or in none. */
function withFormat(extensions: readonly HeaderExtension[], format: string | null): HeaderExtension[] {
  const others = extensions.filter(({ type }) => type !== ExtensionType.backingFormat);
  return format === null ? others : [{ type: ExtensionType.backingFormat, data: Buffer.from(format) }, ...others];
}
