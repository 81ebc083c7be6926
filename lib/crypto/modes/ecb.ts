import type { BlockCipher } from '../ciphers/block-cipher.ts';
import type { Mode } from './mode.ts';

/** Electronic codebook (NIST SP 800-38A, section 6.1): each block by itself, wherever it lies. */
export function ecb(cipher: BlockCipher): Mode {
  return {
    encrypt: (bytes) => void bytes.set(cipher.encrypt(bytes)),
    decrypt: (bytes) => void bytes.set(cipher.decrypt(bytes)),
  };
}
