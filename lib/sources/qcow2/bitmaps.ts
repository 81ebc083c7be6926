import { ensure, ImageError } from '../../core/errors.ts';
import {
  Autoclear,
  type BitmapDirectoryEntry,
  bitmapShape,
  bitRuns,
  decodeBitmapDirectory,
  decodeBitmapsExtension,
  decodeBitmapTableEntry,
  ExtensionType,
  findExtension,
  type HeaderTail,
  MAX_BITMAP_BYTES,
  type Qcow2Geometry,
  type Qcow2Header,
} from '../../layouts/qcow2/index.ts';
import type { Storage } from '../../storage/storage.ts';
import type { BitmapInfo, BitmapReader } from '../source.ts';
import { corrupt, inContext } from './context.ts';

/** What of an image tells of its bitmaps. */
export interface BitmapOwner {
  readonly storage: Storage;
  readonly header: Qcow2Header;
  readonly tail: HeaderTail;
  readonly geometry: Qcow2Geometry;
}

/** A bitmap whose table is in memory: at most 8 MiB, as a bitmap has at most 512 MiB in clusters of at least 512 bytes. */
export interface LoadedBitmap {
  entry: BitmapDirectoryEntry;
  table: Buffer;
  bits: number;
  bitsPerCluster: number;
}

/** A marked guest range. */
export interface MarkedRange {
  offset: number;
  length: number;
}

/**
 * The persistent bitmaps ("Bitmaps extension"). None where the autoclear bit is off: somebody wrote to the image
 * who didn't keep them up to date.
 */
export async function readBitmaps({ storage, header, tail }: BitmapOwner): Promise<BitmapDirectoryEntry[]> {
  const data = findExtension(tail.extensions, ExtensionType.bitmaps);
  if (data === null || header.version === 2 || (header.autoclear & Autoclear.bitmaps) === 0n) return [];
  const { count, directoryBytes, directoryOffset } = decodeBitmapsExtension(data);
  const context = { offset: directoryOffset };
  ensure(
    directoryOffset + directoryBytes <= storage.size,
    'The bitmap directory lies past the end of the file',
    context,
  );
  const directory = Buffer.alloc(directoryBytes);
  await storage.read(directoryOffset, directory);
  return decodeBitmapDirectory(directory, count);
}

/** Reads a bitmap's table ("Bitmap table"), after what the entry says has been held against the disk's size. */
export async function loadBitmap(
  { storage, header, geometry }: BitmapOwner,
  entry: BitmapDirectoryEntry,
): Promise<LoadedBitmap> {
  const { clusterSize } = geometry;
  const { bits, bitsPerCluster, tableEntries } = bitmapShape(header.size, entry.granularityBits, clusterSize);
  const { tableOffset: offset, name } = entry;
  const fits =
    entry.tableEntries === tableEntries &&
    bits <= MAX_BITMAP_BYTES * 8 &&
    offset % clusterSize === 0 &&
    (offset > 0 || tableEntries === 0) &&
    offset + tableEntries * 8 <= storage.size;
  if (!fits) throw corrupt(`Bitmap '${name}' doesn't satisfy the constraints`, storage.name, offset);
  if (entry.extra.length > 0 && !entry.extraCompatible) {
    throw new ImageError('unsupported', `Bitmap '${name}' has extra data that are not known`, { file: storage.name });
  }
  const table = Buffer.alloc(tableEntries * 8);
  if (table.length > 0) await storage.read(offset, table);
  return { entry, table, bits, bitsPerCluster };
}

/** The bits in the cluster of table entry `index`; null: none is set. */
export async function loadBits(
  { storage, geometry: { clusterSize } }: Pick<BitmapOwner, 'storage' | 'geometry'>,
  table: Buffer,
  index: number,
): Promise<Buffer | null> {
  const { offset, allOnes } = decodeBitmapTableEntry(table, index, clusterSize);
  if (allOnes) return Buffer.alloc(clusterSize, 0xff);
  if (offset === 0) return null;
  ensure(offset + clusterSize <= storage.size, 'A bitmap lies past the end of the file', { offset });
  const bytes = Buffer.allocUnsafe(clusterSize);
  await storage.read(offset, bytes);
  return bytes;
}

/** The marked guest ranges of a bitmap, ascending and joined, inside the disk. */
export async function* markedRanges(image: BitmapOwner, entry: BitmapDirectoryEntry): AsyncGenerator<MarkedRange> {
  const bitmap = await loadBitmap(image, entry);
  const unit = 2 ** entry.granularityBits;
  const { size } = image.header;
  let [start, end] = [0, 0];
  for (let index = 0; index * 8 < bitmap.table.length; index += 1) {
    const bytes = await loadBits(image, bitmap.table, index);
    if (bytes === null) continue;
    const first = index * bitmap.bitsPerCluster;
    for (const { from, to } of bitRuns(bytes, Math.min(bitmap.bitsPerCluster, bitmap.bits - first))) {
      const offset = (first + from) * unit;
      if (offset !== end) {
        if (end > start) yield { offset: start, length: end - start };
        start = offset;
      }
      end = Math.min(size, (first + to) * unit);
    }
  }
  if (end > start) yield { offset: start, length: end - start };
}

/** The entry of that name. */
export function findBitmap(entries: readonly BitmapDirectoryEntry[], name: string): BitmapDirectoryEntry {
  const entry = entries.find((each) => each.name === name);
  if (entry !== undefined) return entry;
  throw new ImageError('missing', `Dirty bitmap '${name}' not found`, { format: 'qcow2' });
}

/** Throws unless what the bitmap says can be relied on. */
export function checkConsistent({ inUse, name }: BitmapDirectoryEntry): void {
  if (!inUse) return;
  throw new ImageError(
    'corrupt',
    `Bitmap '${name}' is inconsistent and cannot be used\n` +
      'Try block-dirty-bitmap-remove to delete this bitmap from disk',
    { format: 'qcow2' },
  );
}

export function bitmapInfo({ name, granularityBits, auto, inUse }: BitmapDirectoryEntry): BitmapInfo {
  return { name, granularity: 2 ** granularityBits, enabled: auto, inconsistent: inUse };
}

/** The bitmaps of an image that is read. */
export class Qcow2BitmapReader implements BitmapReader {
  readonly #image: BitmapOwner;

  constructor(image: BitmapOwner) {
    this.#image = image;
  }

  get supported(): boolean {
    return this.#image.header.version >= 3;
  }

  get size(): number {
    return this.#image.header.size;
  }

  async list(): Promise<BitmapInfo[]> {
    try {
      return (await readBitmaps(this.#image)).map(bitmapInfo);
    } catch (error) {
      throw inContext(error, this.#image.storage.name);
    }
  }

  async *ranges(name: string): AsyncGenerator<MarkedRange> {
    try {
      const entry = findBitmap(await readBitmaps(this.#image), name);
      checkConsistent(entry);
      yield* markedRanges(this.#image, entry);
    } catch (error) {
      throw inContext(error, this.#image.storage.name);
    }
  }
}
