import { createCipheriv, createDecipheriv } from 'node:crypto';
import { ImageError } from '../core/errors.ts';

const CIPHER_NAMES = [
  'aes-128',
  'aes-192',
  'aes-256',
  'cast5-128',
  'serpent-128',
  'serpent-192',
  'serpent-256',
  'twofish-128',
  'twofish-192',
  'twofish-256',
] as const;

/** Ciphers by QEMU's names (QAPI QCryptoCipherAlgorithm): those that a LUKS container can be made with. */
export type CipherName = (typeof CIPHER_NAMES)[number];

/** Whether `name`, which a header or a user gave, is a cipher that we have. */
export function isCipherName(name: string): name is CipherName {
  return CIPHER_NAMES.includes(name as CipherName);
}

/**
 * A block cipher with its key, on many blocks at once, each by itself (ECB): what every mode is made of. `blocks` is
 * some whole blocks; the result is as long, and is `blocks` itself or memory of its own.
 */
export interface BlockCipher {
  /** Bytes of one block. */
  readonly blockSize: 8 | 16;
  encrypt(blocks: Buffer): Buffer;
  decrypt(blocks: Buffer): Buffer;
}

/** Bytes of a cipher's key, such as 32 of `aes-256`; XTS takes two of them. */
export function cipherKeyBytes(cipher: CipherName): number {
  return Number(cipher.slice(cipher.indexOf('-') + 1)) / 8;
}

/** Bytes of a cipher's block. */
export function cipherBlockBytes(cipher: CipherName): 8 | 16 {
  return cipher === 'cast5-128' ? 8 : 16;
}

/** `cipher` with `key`, which has `cipherKeyBytes(cipher)` bytes. */
export function blockCipher(cipher: CipherName, key: Uint8Array): BlockCipher {
  if (key.length !== cipherKeyBytes(cipher)) {
    throw new ImageError('invalid', `A key of ${cipher} has ${cipherKeyBytes(cipher)} bytes, not ${key.length}`);
  }
  if (cipher.startsWith('aes-')) return aes(cipher, key);
  throw new ImageError('unsupported', `Cipher ${cipher} is not supported`);
}

/** AES as OpenSSL has it (FIPS 197). */
function aes(cipher: CipherName, key: Uint8Array): BlockCipher {
  const encryption = createCipheriv(`${cipher}-ecb`, key, null).setAutoPadding(false);
  const decryption = createDecipheriv(`${cipher}-ecb`, key, null).setAutoPadding(false);
  return {
    blockSize: 16,
    encrypt: (blocks) => encryption.update(blocks),
    decrypt: (blocks) => decryption.update(blocks),
  };
}
