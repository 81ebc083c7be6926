import { ImageError } from '../../core/errors.ts';
import type { Secrets } from '../../crypto/secrets.ts';
import { keySecret } from './key-secret.ts';

/** How the clusters of a qcow or qcow2 image can be encrypted. */
export type EncryptionFormat = 'aes' | 'luks';

/** `encrypt` of a node, as the user gave it (QAPI, BlockdevQcow2Encryption). */
type EncryptOptions = Readonly<Record<string, unknown>>;

const KNOWN: readonly string[] = ['format', 'key-secret'];

/**
 * Throws, in qemu-img's words, where the `encrypt` options of a node contradict what its header says. Of a plain
 * image only the format counts, as with QEMU.
 */
export function checkEncryptOptions(given: unknown, format: EncryptionFormat | null): void {
  const options = encryptOptions(given);
  if (options.format !== undefined && options.format !== format) {
    const header =
      format === null ? 'No encryption in image header, but' : `Header reported '${format}' encryption format but`;
    const what = format === null ? 'specified format' : 'specify';
    throw invalid(`${header} options ${what} '${String(options.format)}'`);
  }
  if (format === null) return;
  const unknown = Object.keys(options).find((key) => !KNOWN.includes(key));
  if (unknown !== undefined) throw invalid(`Parameter '${unknown}' is unexpected`);
}

/** The passphrase that the `encrypt` options name. */
export function passphraseOf(given: unknown, secrets: Secrets | undefined): Buffer {
  return keySecret(encryptOptions(given)['key-secret'], secrets, 'encrypt.key-secret');
}

function encryptOptions(given: unknown): EncryptOptions {
  return typeof given === 'object' && given !== null ? (given as EncryptOptions) : {};
}

function invalid(message: string): ImageError {
  return new ImageError('invalid', message);
}
