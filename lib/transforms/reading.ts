import { type ErrorContext, ImageError as Failure, fromSystemError, type ImageError } from '../core/errors.ts';
import type { ByteReader, Extent } from '../core/extent.ts';

/** Told of each sector that could not be read and was replaced by zeros. */
export type OnUnreadable = (offset: number, error: ImageError) => void;

/** A layer that loads runs of compressed clusters at once: see Source.readMany. */
interface ManyReader extends ByteReader {
  readMany?(extents: readonly Extent[], buffers: readonly Buffer[]): Promise<void>;
}

/** Unreadable areas are given up in pieces of this many bytes: a disk sector. */
const SECTOR = 512;

/**
 * Reads the guest bytes of data extents (ascending, none loaded) into consecutive parts of `buffer`, and returns the
 * parts. Neighbours on the host become one read; compressed ones of a layer go to it together.
 * Throws an ImageError that names the guest offset; with `onUnreadable`, sectors that fail become zeros.
 */
export async function readExtents(
  extents: readonly Extent[],
  buffer: Buffer,
  onUnreadable?: OnUnreadable,
): Promise<Buffer[]> {
  const parts: Buffer[] = [];
  const reads: Promise<void>[] = [];
  let at = 0;
  for (let first = 0; first < extents.length; ) {
    const end = runEnd(extents, first);
    const start = at;
    for (let index = first; index < end; index += 1) {
      parts.push(buffer.subarray(at, at + extents[index].length));
      at += extents[index].length;
    }
    const run = extents.slice(first, end);
    reads.push(readRun(run, parts.slice(first, end), buffer.subarray(start, at), onUnreadable));
    first = end;
  }
  // All must have ended before the buffer may be used again, also where one fails.
  const results = await Promise.allSettled(reads);
  for (const result of results) if (result.status === 'rejected') throw result.reason;
  return parts;
}

/** Index after the last extent that can share one read with the one at `first`. */
function runEnd(extents: readonly Extent[], first: number): number {
  let end = first + 1;
  while (end < extents.length && joins(extents[end - 1], extents[end])) end += 1;
  return end;
}

function joins(last: Extent, next: Extent): boolean {
  if (last.host !== null && next.host !== null) {
    return last.host === next.host && last.hostOffset + last.length === next.hostOffset;
  }
  if (last.host !== null || next.host !== null || last.layer !== next.layer) return false;
  if (last.compressed && next.compressed) return (next.layer as ManyReader | null)?.readMany !== undefined;
  return !last.compressed && !next.compressed && last.offset + last.length === next.offset;
}

async function readRun(run: Extent[], parts: Buffer[], whole: Buffer, onUnreadable?: OnUnreadable): Promise<void> {
  try {
    await attempt(run, parts, whole);
  } catch (error) {
    if (onUnreadable === undefined) throw placed(error, run[0].offset);
    await salvage(run, parts, onUnreadable);
  }
}

function attempt(run: Extent[], parts: Buffer[], whole: Buffer): Promise<void> {
  const [{ host, hostOffset, offset, compressed }] = run;
  const layer = run[0].layer as ManyReader | null;
  if (host !== null) return host.read(hostOffset, whole);
  if (layer === null) throw new Failure('invalid', 'Extent of data without a place to load it from', { offset });
  if (compressed && layer.readMany !== undefined) return layer.readMany(run, parts);
  return layer.read(offset, whole);
}

/** Sector by sector, which is slow; but it only ever touches what a large read could not have. */
async function salvage(run: Extent[], parts: Buffer[], onUnreadable: OnUnreadable): Promise<void> {
  for (const [index, each] of run.entries()) {
    for (let at = 0; at < each.length; at += SECTOR) {
      const piece = parts[index].subarray(at, Math.min(each.length, at + SECTOR));
      try {
        if (each.host !== null) await each.host.read(each.hostOffset + at, piece);
        else await each.layer?.read(each.offset + at, piece);
      } catch (error) {
        piece.fill(0);
        onUnreadable(each.offset + at, fromSystemError(error));
      }
    }
  }
}

/** The error of a read with the guest offset in its message, as qemu-img words it. */
function placed(error: unknown, offset: number): ImageError {
  const known = fromSystemError(error);
  const context: ErrorContext = {
    file: known.file,
    format: known.format,
    operation: 'read',
    offset,
    code: known.code,
    cause: known,
  };
  return new Failure(known.kind, `error while reading at byte ${offset}: ${known.message}`, context);
}
