import { ImageError } from '../../core/errors.ts';
import { inContext as inContextOf } from '../context.ts';

/** The error with file and format filled in where they are missing; what is no ImageError stays what it is. */
export function inContext(error: unknown, file: string): unknown {
  return inContextOf(error, file, 'qcow2');
}

/** A `corrupt` error about the image `file`. */
export function corrupt(message: string, file: string, offset: number): ImageError {
  return new ImageError('corrupt', message, { file, format: 'qcow2', offset });
}
