import { ImageError } from '../core/errors.ts';

/** The error with file and format filled in where they are missing; what is no ImageError stays what it is. */
export function inContext(error: unknown, file: string, format: string): unknown {
  if (!(error instanceof ImageError) || (error.file !== undefined && error.format !== undefined)) return error;
  const { kind, message, operation, offset, code, cause } = error;
  return new ImageError(kind, message, {
    file: error.file ?? file,
    format: error.format ?? format,
    operation,
    offset,
    code,
    cause,
  });
}
