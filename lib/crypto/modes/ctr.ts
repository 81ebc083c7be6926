import type { BlockCipher } from '../ciphers/block-cipher.ts';
import type { IvWriter } from '../iv.ts';
import { sharedKernel } from '../wasm/kernel.ts';
import { type Mode, PIECE } from './mode.ts';

/**
 * Counter mode (NIST SP 800-38A, section 6.5): the IV of a sector is its first counter, and the next ones count up from
 * it as one big-endian number.
 */
export function ctr(cipher: BlockCipher, writeIvs: IvWriter, sectorSize: number): Mode {
  const { blockSize } = cipher;
  const kernel = sharedKernel();
  const counters = Buffer.alloc(PIECE);
  const ivs = Buffer.alloc((PIECE / sectorSize) * blockSize);
  const apply = (bytes: Buffer, number: number) => {
    const firsts = ivs.subarray(0, (bytes.length / sectorSize) * blockSize);
    writeIvs(firsts, number, sectorSize / 512);
    for (let from = 0, at = 0; from < firsts.length; from += blockSize, at += sectorSize) {
      countUp(counters, at, sectorSize, firsts, from, blockSize);
    }
    kernel.mask.set(cipher.encrypt(counters.subarray(0, bytes.length)));
    kernel.data.set(bytes);
    kernel.xor(bytes.length);
    bytes.set(kernel.data.subarray(0, bytes.length));
  };
  return { encrypt: apply, decrypt: apply };
}

/** Fills the sector at `at` of `counters` with those that begin with the IV at `from` of `ivs`. */
function countUp(counters: Buffer, at: number, size: number, ivs: Buffer, from: number, blockSize: number): void {
  ivs.copy(counters, at, from, from + blockSize);
  // Copying what is there doubles it; then only the last digits are left to be set.
  for (let have = blockSize; have < size; have *= 2) counters.copyWithin(at + have, at, at + have);
  const view = new DataView(counters.buffer, counters.byteOffset);
  let last = view.getUint32(at + blockSize - 4);
  for (let place = at + blockSize; place < at + size; place += blockSize) {
    last = (last + 1) >>> 0;
    if (last === 0) carry(counters, place, at + size, blockSize);
    view.setUint32(place + blockSize - 4, last);
  }
}

/** Adds 1 to all but the last 32 bits of each counter in [start, end). */
function carry(counters: Buffer, start: number, end: number, blockSize: number): void {
  for (let place = start; place < end; place += blockSize) {
    for (let digit = place + blockSize - 5; digit >= place; digit -= 1) {
      counters[digit] = (counters[digit] + 1) & 0xff;
      if (counters[digit] !== 0) break;
    }
  }
}
