import { ImageError } from '../core/errors.ts';
import { tracePoint } from '../core/trace.ts';
import { ChunkReader, type ChunkStream } from './chunks.ts';

/** How a stream is packed. */
export type Packing = 'gzip' | 'bzip2' | 'xz' | 'zstd';

/** Bytes that `detectPacking` wants to see. */
export const PACKING_MAGIC_BYTES = 10;

const traceUnpack = tracePoint('unpack');

/** Recognises a packed stream by its magic; null: it is none. The magics are too long to be met by chance. */
export function detectPacking(head: Buffer): Packing | null {
  if (head.length < 6) return null;
  const hex = head.toString('hex', 0, PACKING_MAGIC_BYTES);
  // RFC 1952: magic, deflate, and the reserved flags are zero.
  if (hex.startsWith('1f8b08') && (head[3] & 0xe0) === 0) return 'gzip';
  // `BZh`, the block size, and the magic of a block or of the end.
  if (/^425a683[1-9](314159265359|177245385090)/.test(hex)) return 'bzip2';
  if (hex.startsWith('fd377a585a00')) return 'xz';
  // RFC 8878: a frame, or a skippable one before it.
  if (hex.startsWith('28b52ffd') || /^5.2a4d18/.test(hex)) return 'zstd';
  return null;
}

/**
 * Unpacks a stream if it is packed; other streams come out as they are. Concatenated streams are unpacked one
 * after the other. A damaged or cut-off one fails with a `corrupt` ImageError, after some of its contents came out.
 * @param name for messages
 */
export async function* unpack(chunks: ChunkStream, name: string): ChunkStream {
  const reader = new ChunkReader(chunks);
  try {
    await reader.ensure(PACKING_MAGIC_BYTES);
    const packing = detectPacking(reader.view);
    if (traceUnpack.enabled) traceUnpack.emit({ file: name, packing });
    const decode = packing === null ? passThrough : await decoder(packing);
    yield* decode(reader);
  } catch (error) {
    throw named(error, name);
  } finally {
    await reader.close();
  }
}

/** Decoders load when they are needed: few inputs are packed. */
async function decoder(packing: Packing): Promise<(reader: ChunkReader) => ChunkStream> {
  switch (packing) {
    case 'gzip':
      return (await import('./unpack-gzip.ts')).gunzip;
    case 'bzip2':
      return (await import('./unpack-bzip2.ts')).bunzip2;
    case 'xz':
      return (await import('./unpack-xz.ts')).unxz;
    case 'zstd':
      return (await import('./unpack-zstd.ts')).unzstd;
  }
}

async function* passThrough(reader: ChunkReader): ChunkStream {
  while (await reader.ensure(1)) yield reader.take(reader.available);
}

/** Decoders don't know the file's name. */
function named(error: unknown, file: string): unknown {
  if (!(error instanceof ImageError) || error.file !== undefined) return error;
  const { kind, message, operation, offset, cause } = error;
  return new ImageError(kind, message, { file, operation, offset, cause });
}
