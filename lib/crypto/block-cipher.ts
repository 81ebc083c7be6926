import { ImageError } from '../core/errors.ts';
import { aes } from './ciphers/aes.ts';
import type { BlockCipher } from './ciphers/block-cipher.ts';
import { cast5 } from './ciphers/cast5.ts';
import { serpent } from './ciphers/serpent.ts';
import { twofish } from './ciphers/twofish.ts';

export type { BlockCipher } from './ciphers/block-cipher.ts';

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
  switch (cipher.slice(0, cipher.indexOf('-'))) {
    case 'serpent':
      return serpent(key);
    case 'twofish':
      return twofish(key);
    case 'cast5':
      return cast5(key);
    default:
      return aes(key);
  }
}
