import { ImageError } from '../core/errors.ts';
import type { ChunkReader } from './chunks.ts';

/** The packed stream contradicts its format. */
export function damaged(format: string, reader: ChunkReader, cause?: unknown): ImageError {
  return new ImageError('corrupt', `The ${format} stream on the input is damaged`, {
    operation: 'unpack',
    offset: reader.position,
    cause,
  });
}

/** The packed stream stops in its midst. */
export function cutOff(format: string, reader: ChunkReader): ImageError {
  return new ImageError('corrupt', `The ${format} stream on the input ends too early`, {
    operation: 'unpack',
    offset: reader.position,
  });
}

/** In order, but not for us. */
export function unsupportedPacking(what: string): ImageError {
  return new ImageError('unsupported', what, { operation: 'unpack' });
}
