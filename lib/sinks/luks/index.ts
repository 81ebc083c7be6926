import { ImageError } from '../../core/errors.ts';
import type { AnyOptionValues } from '../../core/options.ts';
import { keySecret } from '../../sources/encryption/key-secret.ts';
import { openLuksContainer } from '../../sources/luks/index.ts';
import type { SourceRequest } from '../../sources/source.ts';
import { amendLuks } from '../encryption/luks.ts';
import { LuksTarget } from './target.ts';

export { createLuks, measureLuks } from './create.ts';

/** Opens an existing container for writing. */
export async function openLuksTarget(request: SourceRequest): Promise<LuksTarget> {
  const container = await openLuksContainer({ ...request, metadataOnly: false });
  const { cipher, payloadOffset, payloadSize } = container;
  if (cipher === null) throw new ImageError('invalid', "Parameter 'key-secret' is required for cipher");
  const size = payloadSize ?? request.storage.size - payloadOffset;
  return new LuksTarget(request.storage, { ...container, cipher }, size, null);
}

/** Changes the key slots. */
export async function amendLuksImage(
  request: SourceRequest & { values: AnyOptionValues; force: boolean },
): Promise<void> {
  const { storage, options, secrets, values, force } = request;
  const passphrase = keySecret(options['key-secret'], secrets);
  // Several may write to the disk at once, but nobody shall unlock it while its keys change.
  await storage.lock?.({ uses: ['consistent read', 'write'], denies: ['consistent read', 'write'] });
  const at = { offset: 0, length: Number.POSITIVE_INFINITY };
  await amendLuks({ storage, at, values, secrets, passphrase, force });
}
