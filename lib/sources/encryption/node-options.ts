import { ImageError } from '../../core/errors.ts';
import type { Secrets } from '../../crypto/secrets.ts';
import { keySecret } from './key-secret.ts';

/** How the clusters of a qcow or qcow2 image can be encrypted. */
export type EncryptionFormat = 'aes' | 'luks';

type Options = Readonly<Record<string, unknown>>;

const KNOWN: readonly string[] = ['format', 'key-secret'];
const PREFIX = 'encrypt.';

/**
 * Throws, in qemu-img's words, where the `encrypt` options of a node contradict what its header says. Of a plain
 * image only the format counts, as with QEMU.
 */
export function checkEncryptOptions(node: Options, format: EncryptionFormat | null): void {
  const options = encryptOptions(node);
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
export function passphraseOf(node: Options, secrets: Secrets | undefined): Buffer {
  return keySecret(encryptOptions(node)['key-secret'], secrets, `${PREFIX}key-secret`);
}

/** `encrypt` of a node (QAPI, BlockdevQcow2Encryption); keys may be dotted. */
function encryptOptions({ encrypt, ...others }: Options): Options {
  const options: Record<string, unknown> = typeof encrypt === 'object' ? { ...encrypt } : {};
  for (const [key, value] of Object.entries(others)) {
    if (key.startsWith(PREFIX)) options[key.slice(PREFIX.length)] = value;
  }
  return options;
}

function invalid(message: string): ImageError {
  return new ImageError('invalid', message);
}
