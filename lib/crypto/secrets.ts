import { ImageError } from '../core/errors.ts';

/**
 * Passphrases by the ids that options name (`key-secret=sec0`): what `--object secret` makes. Text means its UTF-8
 * bytes.
 */
export type Secrets = ReadonlyMap<string, string | Uint8Array>;

/** The bytes of a secret; an ImageError in QEMU's words where there is none of that name. */
export function secretNamed(secrets: Secrets | undefined, id: string): Buffer {
  const secret = secrets?.get(id);
  if (secret === undefined) throw new ImageError('invalid', `No secret with id '${id}'`);
  return typeof secret === 'string' ? Buffer.from(secret) : Buffer.from(secret);
}
