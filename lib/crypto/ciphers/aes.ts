import { createCipheriv, createDecipheriv } from 'node:crypto';
import type { BlockCipher } from './block-cipher.ts';

/** AES (FIPS 197) with a key of 128, 192 or 256 bits, by OpenSSL. */
export function aes(key: Uint8Array): BlockCipher {
  const name = `aes-${key.length * 8}-ecb`;
  const encryption = createCipheriv(name, key, null).setAutoPadding(false);
  const decryption = createDecipheriv(name, key, null).setAutoPadding(false);
  return {
    blockSize: 16,
    encrypt: (blocks) => encryption.update(blocks),
    decrypt: (blocks) => decryption.update(blocks),
  };
}
