import { ImageError } from '../../core/errors.ts';
import type { AnyOptionValues } from '../../core/options.ts';
import type { Secrets } from '../../crypto/secrets.ts';
import { keySecret } from '../../sources/encryption/key-secret.ts';
import type { EncryptionFormat } from '../../sources/encryption/node-options.ts';

/** How the clusters of a new image shall be encrypted. */
export interface WantedEncryption {
  format: EncryptionFormat;
  /** The values of `encrypt.*` but for the format, by their names without the prefix. */
  values: AnyOptionValues;
}

const PREFIX = 'encrypt.';
const FORMATS: readonly string[] = ['aes', 'luks'];

/** What the options `encryption` and `encrypt.*` of a new qcow or qcow2 image ask for; `invalid` in qemu-img's words. */
export function wantedEncryption(options: AnyOptionValues): WantedEncryption | null {
  const { encryption, ...rest } = options;
  const values: AnyOptionValues = {};
  for (const [key, value] of Object.entries(rest)) {
    if (key.startsWith(PREFIX) && value !== undefined) values[key.slice(PREFIX.length)] = value;
  }
  const { format: given, ...others } = values;
  if (encryption === true && given !== undefined) {
    throw invalid("'encrypt.format' and its alias 'encryption' can't be used at the same time");
  }
  const format = encryption === true ? 'aes' : given;
  if (format === undefined) {
    if (Object.keys(others).length === 0) return null;
    throw invalid("Parameter 'encrypt.format' is missing");
  }
  if (!FORMATS.includes(String(format))) throw invalid(`Parameter 'format' does not accept value '${String(format)}'`);
  const unexpected = format === 'aes' ? Object.keys(others).find((key) => key !== 'key-secret') : undefined;
  if (unexpected !== undefined) throw invalid(`Parameter '${PREFIX}${unexpected}' is unexpected`);
  return { format: format as EncryptionFormat, values: others };
}

/** The passphrase that a new image shall have. */
export function wantedPassphrase({ values }: WantedEncryption, secrets: Secrets | undefined): Buffer {
  return keySecret(values['key-secret'], secrets, `${PREFIX}key-secret`);
}

function invalid(message: string): ImageError {
  return new ImageError('invalid', message, { operation: 'create' });
}
