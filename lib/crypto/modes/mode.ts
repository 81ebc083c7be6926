/**
 * A mode of operation over a piece of a disk: whole sectors, at most `PIECE` bytes, where they lie. `number` is that of
 * the first sector, in units of 512 bytes.
 */
export interface Mode {
  encrypt(bytes: Buffer, number: number): void;
  decrypt(bytes: Buffer, number: number): void;
}

/**
 * Bytes that a mode works on at a time: few enough that they, their tweaks and the cipher's output stay in the
 * processor's cache, and enough that a call of OpenSSL's is lost among its work.
 */
export const PIECE = 64 * 1024;
