import { ImageError } from '../core/errors.ts';
import type { Extent } from '../core/extent.ts';
import { throwIfAborted } from '../core/streams.ts';
import { walkExtents } from '../sources/extents.ts';
import { unwrapSlice } from '../storage/slice.ts';
import { openInput } from './input.ts';
import type { ImageReference, VerbOptions } from './reference.ts';
import { asReported } from './reported.ts';

export interface MapOptions extends VerbOptions {
  image: ImageReference;
  /** `--start-offset`: bytes; default 0. */
  startOffset?: number;
  /** `--max-length`: bytes; absent: to the end. */
  maxLength?: number;
}

/** One line of `map --output=json`, in its own names. */
export interface MapEntry {
  start: number;
  length: number;
  /** Which layer: 0 is the image itself. */
  depth: number;
  /** Some layer of the chain holds it. */
  present: boolean;
  zero: boolean;
  data: boolean;
  /** Where the bytes lie plain in `filename`; absent otherwise. */
  offset?: number;
  /** The file that `offset` counts in. */
  filename?: string;
}

/**
 * The map of an image with its backing chain, neighbours of one kind merged as `qemu-img map` merges them. No data
 * are read. Throws an ImageError while it is walked; a range beyond the end is empty.
 */
export async function* map(options: MapOptions): AsyncGenerator<MapEntry, void, void> {
  const { startOffset = 0, maxLength = Number.POSITIVE_INFINITY, signal } = options;
  const image = await openInput(options.image, options);
  try {
    let current: MapEntry | null = null;
    for await (const batch of walkExtents(image.chain, { offset: startOffset, length: maxLength })) {
      throwIfAborted(signal);
      for (const each of batch) {
        const next = toEntry(asReported(each));
        if (current !== null && continues(current, next)) {
          current.length += next.length;
          continue;
        }
        if (current !== null) yield current;
        current = next;
      }
    }
    if (current !== null) yield current;
  } catch (error) {
    throw unreadable(error);
  } finally {
    await image.close();
  }
}

function toEntry({ offset, length, kind, depth, hollow, host, hostOffset }: Extent): MapEntry {
  const present = kind !== 'unallocated';
  const entry: MapEntry = {
    start: offset,
    length,
    depth,
    present,
    zero: kind !== 'data',
    data: kind === 'data' || hollow,
  };
  if (host !== null) {
    // Of a part of a file (an archive's member), the place in the file.
    const { base, offset: at } = unwrapSlice(host, hostOffset);
    entry.offset = at;
    entry.filename = base.name;
  }
  return entry;
}

function continues(last: MapEntry, next: MapEntry): boolean {
  if (last.depth !== next.depth || last.present !== next.present) return false;
  if (last.data !== next.data || last.zero !== next.zero) return false;
  if (last.filename !== next.filename) return false;
  return last.offset === undefined ? next.offset === undefined : last.offset + last.length === next.offset;
}

function unreadable(error: unknown): unknown {
  if (!(error instanceof ImageError) || error.kind === 'aborted') return error;
  const { kind, message, file, format, offset, code } = error;
  const text = `Could not read file metadata: ${message}`;
  return new ImageError(kind, text, { file, format, operation: 'map', offset, code, cause: error });
}
