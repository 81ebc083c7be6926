import { ImageError } from '../../core/errors.ts';
import { type AnyOptionValues, defineOptions } from '../../core/options.ts';

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

/** Encrypted images can't be made yet: refused, whatever else the options say. */
export function refuseEncryption(options: AnyOptionValues): void {
  const { encryption, 'encrypt.format': format, 'encrypt.key-secret': secret } = options;
  const context = { format: 'qcow', operation: 'create' };
  if (encryption !== undefined && format !== undefined) {
    const message = "'encrypt.format' and its alias 'encryption' can't be used at the same time";
    throw new ImageError('invalid', message, context);
  }
  if (encryption === true || format !== undefined || secret !== undefined) {
    throw new ImageError('unsupported', 'Encrypted images are not supported yet', context);
  }
}
