import { ImageError } from '../core/errors.ts';
import { type NodeSpec, parseFilename, parseImageOpts } from '../sources/filename.ts';
import type { ImageReference } from './reference.ts';

/** The node that a user names, for verbs that change an image where it lies. */
export function nodeOf(reference: ImageReference): NodeSpec {
  if ('file' in reference) return reference;
  const { filename, format, imageOpts } = reference;
  if (imageOpts) return parseImageOpts(filename);
  const node = parsed(filename);
  return format ? { ...node, driver: format } : node;
}

function parsed(filename: string): NodeSpec {
  try {
    return parseFilename(filename);
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    throw new ImageError(error.kind, `Could not open '${filename}': ${error.message}`, {
      file: filename,
      cause: error,
    });
  }
}
