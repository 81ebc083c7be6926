import type { BlockCipher } from '../block-cipher.ts';
import type { IvWriter } from '../iv.ts';
import { type Mode, PIECE, xorInto } from './mode.ts';

/**
 * Counter mode (NIST SP 800-38A, section 6.5): the IV of a sector is its first counter, and the next ones count up from
 * it as one big-endian number.
 */
export function ctr(cipher: BlockCipher, writeIvs: IvWriter, sectorSize: number): Mode {
  const { blockSize } = cipher;
  const counters = Buffer.alloc(PIECE);
  const ivs = Buffer.alloc((PIECE / sectorSize) * blockSize);
  const apply = (bytes: Buffer, number: number) => {
    const sectors = bytes.length / sectorSize;
    writeIvs(ivs.subarray(0, sectors * blockSize), number, sectorSize / 512);
    for (let sector = 0; sector < sectors; sector += 1) {
      const iv = ivs.subarray(sector * blockSize, (sector + 1) * blockSize);
      countUp(counters.subarray(sector * sectorSize, (sector + 1) * sectorSize), iv);
    }
    xorInto(bytes, cipher.encrypt(counters.subarray(0, bytes.length)));
  };
  return { encrypt: apply, decrypt: apply };
}

/** Fills a sector with the counters that begin with `iv`. */
function countUp(sector: Buffer, iv: Buffer): void {
  for (let at = 0; at < sector.length; at += iv.length) {
    iv.copy(sector, at);
    for (let digit = iv.length - 1; digit >= 0; digit -= 1) {
      iv[digit] = (iv[digit] + 1) & 0xff;
      if (iv[digit] !== 0) break;
    }
  }
}
