import { ImageError } from '../../core/errors.ts';

/** The error with file and format filled in where they are missing; what is no ImageError stays what it is. */
export function inContext(error: unknown, file: string): unknown {
  if (!(error instanceof ImageError) || (error.file !== undefined && error.format !== undefined)) return error;
  const { kind, message, operation, offset, code, cause } = error;
  return new ImageError(kind, message, {
    file: error.file ?? file,
    format: error.format ?? 'qcow2',
    operation,
    offset,
    code,
    cause,
  });
}

/** A `corrupt` error about the image `file`. */
export function corrupt(message: string, file: string, offset: number): ImageError {
  return new ImageError('corrupt', message, { file, format: 'qcow2', offset });
}
