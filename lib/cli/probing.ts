import { drivers } from '../formats/index.ts';
import { nodeOf } from '../pipelines/node.ts';
import type { ImageReference } from '../pipelines/reference.ts';
import { openImage } from '../sources/open.ts';
import type { Output } from './output.ts';

/**
 * qemu-img's warning before it writes to an image whose format nobody named, and which was taken for a raw one because its bytes
 * are no other's. What can't be opened is silent here: the command itself will say why.
 */
export async function warnOfProbedRaw(reference: ImageReference, output: Output): Promise<void> {
  const node = nodeOf(reference);
  if (node.driver !== null) return;
  const options = { drivers: drivers(), backing: false, metadataOnly: true, forceShare: true };
  const opened = await openImage(node, options).catch(() => null);
  if (opened === null) return;
  const { driver, storage } = opened;
  await opened.close();
  if (driver.name !== 'raw') return;
  output.writeError(
    `WARNING: Image format was not specified for '${storage.name}' and probing guessed raw.\n` +
      '         Automatically detecting the format is dangerous for raw images, ' +
      'write operations on block 0 will be restricted.\n' +
      "         Specify the 'raw' format explicitly to remove the restrictions.\n",
  );
}
