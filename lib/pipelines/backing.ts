import { dirname, resolve } from 'node:path';
import { hasProtocol } from '../sources/filename.ts';
import { openInput } from './input.ts';
import type { ImageReference, VerbOptions } from './reference.ts';

/**
 * Guest bytes of the file that a new image shall refer to: beyond them it has nothing to fall back to.
 * The name is relative to the new image's directory, as its header will have it.
 */
export async function sizeOfBacking(
  filename: string,
  format: string | null,
  options: VerbOptions & { output: ImageReference },
): Promise<number> {
  const { drivers, implicit, secrets, signal, output } = options;
  const place = hasProtocol(filename) ? filename : resolve(dirname(output.filename), filename);
  const image = await openInput({ filename: place, format }, { drivers, implicit, secrets, signal });
  try {
    return image.chain.size;
  } finally {
    await image.close();
  }
}
