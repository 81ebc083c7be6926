import { ImageError } from '../../core/errors.ts';
import { type AnyOptionValues, defineOptions } from '../../core/options.ts';
import { type WantedEncryption, wantedEncryption } from '../encryption/wanted.ts';

/** The keys of `-o`. */
export const qcowCreateOptions = defineOptions({
  backing_file: { type: 'string', help: 'File name of a base image' },
  backing_fmt: { type: 'string', help: 'Format of the backing image' },
  'encrypt.format': { type: 'string', help: "Encrypt the image, format choices: 'aes'" },
  'encrypt.key-secret': { type: 'string', help: 'ID of the secret that provides the AES encryption key' },
  encryption: {
    type: 'bool',
    help: "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)",
  },
  size: { type: 'size', help: 'Virtual disk size' },
});

/** The keys of the line `Formatting …`, in its order; those of the protocol follow. */
export const qcowFormattingOrder = [
  'size',
  'backing_file',
  'backing_fmt',
  'encryption',
  'encrypt.format',
  'encrypt.key-secret',
] as const;

/** How a new image shall be encrypted; null: not at all. */
export function qcowEncryption(options: AnyOptionValues): WantedEncryption | null {
  const wanted = wantedEncryption(options);
  if (wanted?.format !== 'luks') return wanted;
  throw new ImageError('invalid', 'Unsupported encryption format', { format: 'qcow', operation: 'create' });
}
