import type { ExecutionContext } from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { open } from '../sources/oracle.ts';
import { tool } from '../support/tools.ts';

/**
 * Opens the image as `info` does, and fails unless qemu-img does the same: the disk's size, or the words of the
 * refusal.
 */
export async function sameOpening(t: ExecutionContext, format: string, path: string, about: string): Promise<void> {
  const { status, text, stderr } = tool('qemu-img').run(['info', '--output=json', '-f', format, path]);
  const expected = status === 0 ? JSON.parse(text)['virtual-size'] : stderr.trimEnd();
  t.is(await opened(format, path), expected, about);
}

async function opened(format: string, path: string): Promise<number | string> {
  try {
    const image = await open(path, { format, backing: false, metadataOnly: true });
    await image.close();
    return image.source.size;
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    return `qemu-img: ${error.message}`;
  }
}
