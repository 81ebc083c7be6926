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
