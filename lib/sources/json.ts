/** `json:{…}` filenames. QEMU's JSON also takes strings in single quotes, which shells like. */
import { ImageError } from '../core/errors.ts';

/** Longer than any sane description; keeps a hostile header from costing more than its own bytes. */
const MAX_TEXT = 1024 * 1024;

/** The object behind `json:`; an `invalid` ImageError, worded as QEMU words it, where there is none. */
export function parseJsonFilename(filename: string): Record<string, unknown> {
  const text = filename.slice('json:'.length);
  if (text.length > MAX_TEXT) throw failure(filename, 'JSON parse error, the text is too long');
  if (text.trim() === '') throw failure(filename, 'Expecting a JSON value');
  let value: unknown;
  try {
    value = JSON.parse(doubleQuoted(text));
  } catch (error) {
    throw failure(filename, `JSON parse error, ${reason(text)}`, error);
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new ImageError('invalid', 'Invalid JSON object given', { file: filename });
  }
  return value as Record<string, unknown>;
}

/** Rewrites 'single-quoted' strings as "double-quoted" ones; everything else stays as it is. */
export function doubleQuoted(text: string): string {
  if (!text.includes("'")) return text;
  return text.replace(/"(?:[^"\\]|\\.)*"|'((?:[^'\\]|\\.)*)'/gs, (token, inner: string | undefined) => {
    if (inner === undefined) return token;
    return `"${inner.replace(/\\'|"/g, (found) => (found === '"' ? '\\"' : "'"))}"`;
  });
}

function reason(text: string): string {
  const bare = text.replace(/"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'/gs, '');
  const keyword = bare.match(/[a-z]+/g)?.find((word) => !['true', 'false', 'null', 'e'].includes(word));
  return keyword === undefined ? 'expecting value' : `invalid keyword '${keyword}'`;
}

function failure(filename: string, why: string, cause?: unknown): ImageError {
  return new ImageError('invalid', `Could not parse the JSON options: ${why}`, { file: filename, cause });
}
