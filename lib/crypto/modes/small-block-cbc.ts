import type { BlockCipher } from '../ciphers/block-cipher.ts';
import type { IvWriter } from '../iv.ts';
import { type Mode, PIECE } from './mode.ts';

/**
 * Cipher block chaining of ciphers whose blocks have 8 bytes. They are so slow themselves that XORing in plain JavaScript
 * does not matter.
 */
export function smallBlockCbc(cipher: BlockCipher, writeIvs: IvWriter, sectorSize: number): Mode {
  const { blockSize } = cipher;
  const previous = Buffer.alloc(PIECE);
  const chains = Buffer.alloc((PIECE / sectorSize) * blockSize);
  const start = (bytes: Buffer, number: number): Buffer => {
    const ivs = chains.subarray(0, (bytes.length / sectorSize) * blockSize);
    writeIvs(ivs, number, sectorSize / 512);
    return ivs;
  };
  return {
    encrypt(bytes, number) {
      const used = start(bytes, number);
      for (let block = 0; block < sectorSize; block += blockSize) {
        for (let at = 0, base = block; at < used.length; at += blockSize, base += sectorSize) {
          for (let index = 0; index < blockSize; index += 1) used[at + index] ^= bytes[base + index];
        }
        used.set(cipher.encrypt(used));
        for (let at = 0, base = block; at < used.length; at += blockSize, base += sectorSize) {
          for (let index = 0; index < blockSize; index += 1) bytes[base + index] = used[at + index];
        }
      }
    },
    decrypt(bytes, number) {
      const ivs = start(bytes, number);
      previous.set(bytes.subarray(0, bytes.length - blockSize), blockSize);
      for (let from = 0, sector = 0; from < ivs.length; from += blockSize, sector += sectorSize) {
        ivs.copy(previous, sector, from, from + blockSize);
      }
      bytes.set(cipher.decrypt(bytes));
      for (let index = 0; index < bytes.length; index += 1) bytes[index] ^= previous[index];
    },
  };
}
