import { ImageError } from '../../../core/errors.ts';
import {
  Autoclear,
  type BitmapDirectoryEntry,
  decodeBitmapDirectory,
  decodeBitmapsExtension,
  ExtensionType,
  findExtension,
} from '../../../layouts/qcow2/index.ts';
import type { CheckedImage } from './context.ts';

/** A part of the bitmaps in the file: the directory, or a bitmap's table, whose entries refer to clusters. */
export interface BitmapPlace {
  offset: number;
  bytes: number;
  isTable: boolean;
}

/** Whether the image has bitmaps that somebody keeps up to date; others are forgotten by the next writer. */
export function hasBitmaps({ header, tail }: CheckedImage): boolean {
  return (
    (header.autoclear & Autoclear.bitmaps) !== 0n && findExtension(tail.extensions, ExtensionType.bitmaps) !== null
  );
}

/** Whether there are bitmaps that a program without knowledge of them has made worthless. */
export function hasStaleBitmaps(image: CheckedImage): boolean {
  return !hasBitmaps(image) && findExtension(image.tail.extensions, ExtensionType.bitmaps) !== null;
}

/** Where the directory and the tables lie ("Bitmaps extension", "Bitmap directory"); `corrupt` where they lie. */
export async function readBitmaps(image: CheckedImage): Promise<BitmapPlace[]> {
  if (!hasBitmaps(image)) return [];
  const data = findExtension(image.tail.extensions, ExtensionType.bitmaps) as Buffer;
  const { count, directoryBytes, directoryOffset } = decodeBitmapsExtension(data);
  const { clusterSize } = image.geometry;
  if (directoryOffset % clusterSize !== 0) throw corrupt(image, 'bitmaps_ext: invalid bitmap directory offset');
  if (directoryOffset + directoryBytes > image.storage.size) {
    throw corrupt(image, 'The bitmap directory lies past the end of the file');
  }
  const directory = await image.readTable(directoryOffset, directoryBytes);
  const tables = decodeBitmapDirectory(directory, count).map((entry) => tableOf(image, entry));
  return [{ offset: directoryOffset, bytes: directoryBytes, isTable: false }, ...tables];
}

function tableOf(image: CheckedImage, entry: BitmapDirectoryEntry): BitmapPlace {
  const { tableOffset: offset, tableEntries, granularityBits, inUse, name } = entry;
  const { header, geometry } = image;
  const bits = Math.ceil(header.size / 2 ** granularityBits);
  // One that is in use may be of the size that the disk had before.
  const fits = inUse || tableEntries === Math.ceil(bits / 8 / geometry.clusterSize);
  if (!fits || offset === 0 || offset % geometry.clusterSize !== 0) {
    throw corrupt(image, `Bitmap '${name}' doesn't satisfy the constraints`);
  }
  return { offset, bytes: tableEntries * 8, isTable: true };
}

function corrupt({ storage }: CheckedImage, message: string): ImageError {
  return new ImageError('corrupt', message, { file: storage.name, format: 'qcow2' });
}
