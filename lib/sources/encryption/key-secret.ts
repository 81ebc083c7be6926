import { ImageError } from '../../core/errors.ts';
import { type Secrets, secretNamed } from '../../crypto/secrets.ts';

/**
 * The passphrase that an option such as `key-secret` names. ImageError `invalid` in QEMU's words where the option is
 * missing, or the secret.
 * @param option the option's whole name: `encrypt.key-secret` in qcow2
 */
export function keySecret(id: unknown, secrets: Secrets | undefined, option = 'key-secret'): Buffer {
  if (id === undefined) throw new ImageError('invalid', `Parameter '${option}' is required for cipher`);
  return secretNamed(secrets, String(id));
}
