import { type NodeSpec, parseImageOpts, parseNamed } from '../sources/filename.ts';
import type { ImageReference } from './reference.ts';

/** The node that a user names. */
export function nodeOf(reference: ImageReference): NodeSpec {
  if ('file' in reference) return reference;
  const { filename, format, imageOpts } = reference;
  if (imageOpts) return parseImageOpts(filename);
  const node = parseNamed(filename);
  return { ...node, driver: format ?? node.driver };
}
