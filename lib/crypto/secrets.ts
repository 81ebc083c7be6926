import { isUtf8 } from 'node:buffer';
import { ImageError } from '../core/errors.ts';

/**
 * Passphrases by the ids that options name (`key-secret=sec0`): what `--object secret` makes. Text means its UTF-8
 * bytes. Null: there is an object of that name, but it is no secret.
 */
export type Secrets = ReadonlyMap<string, string | Uint8Array | null>;

/** A secret as a passphrase, which QEMU wants to be UTF-8 text; an `invalid` ImageError in its words if there is none. */
export function secretNamed(secrets: Secrets | undefined, id: string): Buffer {
  const bytes = secretBytes(secrets, id);
  if (!isUtf8(bytes) || bytes.includes(0)) {
    throw new ImageError('invalid', `Data from secret ${id} is not valid UTF-8`);
  }
  return bytes;
}

/** A copy of a secret's bytes, whatever they are: of a key, say. */
export function secretBytes(secrets: Secrets | undefined, id: string): Buffer {
  const secret = secrets?.get(id);
  if (secret === undefined) throw new ImageError('invalid', `No secret with id '${id}'`);
  if (secret === null) throw new ImageError('invalid', `Object with id '${id}' is not a secret`);
  return Buffer.from(secret as string);
}
