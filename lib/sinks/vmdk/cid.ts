import { randomInt } from 'node:crypto';
import { ImageError } from '../../core/errors.ts';
import { NO_CID, withCid, withParentCid } from '../../layouts/vmdk/index.ts';
import type { Storage } from '../../storage/storage.ts';

/** A content ID for what is different from all that was before. */
export function newCid(): number {
  // The two highest mean things of their own.
  return randomInt(1, NO_CID - 1);
}

/** Where a descriptor lies. */
export interface DescriptorPlace {
  offset: number;
  /** Room that it has; a file of its own may grow. */
  bytes: number;
}

/**
 * Gives the image a new content ID, so that those that were made upon its old contents can tell. The descriptor's other bytes
 * stay as they are, whatever their encoding.
 */
export function writeCid(storage: Storage, place: DescriptorPlace, cid: number): Promise<void> {
  return changeDescriptor(storage, place, (text) => withCid(text, cid));
}

/** Notes the content ID of the parent that the image lies upon from now on. */
export function writeParentCid(storage: Storage, place: DescriptorPlace, cid: number): Promise<void> {
  return changeDescriptor(storage, place, (text) => withParentCid(text, cid));
}

async function changeDescriptor(
  storage: Storage,
  place: DescriptorPlace,
  change: (text: string) => string | null,
): Promise<void> {
  const room = Math.min(place.bytes, storage.size - place.offset);
  const bytes = Buffer.alloc(room);
  await storage.read(place.offset, bytes);
  const end = bytes.indexOf(0);
  const changed = change(bytes.toString('latin1', 0, end < 0 ? room : end));
  // Without the line nothing refers to it.
  if (changed === null) return;
  if (changed.length > room && place.offset > 0) {
    throw new ImageError('no-space', 'The descriptor has no room for a new CID', { file: storage.name });
  }
  await storage.write(place.offset, Buffer.from(changed, 'latin1'));
}
