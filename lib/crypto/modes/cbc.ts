import type { BlockCipher } from '../block-cipher.ts';
import type { IvWriter } from '../iv.ts';
import { type Mode, PIECE, xorInto } from './mode.ts';

/**
 * Cipher block chaining (NIST SP 800-38A, section 6.2), each sector a chain of its own. A chain is encrypted block after
 * block, but the chains are independent: all first blocks go through the cipher in one call, then all second ones, …
 */
export function cbc(cipher: BlockCipher, writeIvs: IvWriter, sectorSize: number): Mode {
  const { blockSize } = cipher;
  const chains = Buffer.alloc((PIECE / sectorSize) * blockSize);
  const previous = Buffer.alloc(PIECE);
  const start = (bytes: Buffer, number: number) => {
    const ivs = chains.subarray(0, (bytes.length / sectorSize) * blockSize);
    writeIvs(ivs, number, sectorSize / 512);
    return ivs;
  };
  return {
    encrypt(bytes, number) {
      let state: Buffer = start(bytes, number);
      for (let block = 0; block < sectorSize; block += blockSize) {
        xorGathered(state, bytes, block, sectorSize, blockSize);
        state = cipher.encrypt(state);
        scatter(state, bytes, block, sectorSize, blockSize);
      }
    },
    decrypt(bytes, number) {
      const ivs = start(bytes, number);
      previous.set(bytes.subarray(0, bytes.length - blockSize), blockSize);
      scatter(ivs, previous, 0, sectorSize, blockSize);
      bytes.set(cipher.decrypt(bytes));
      xorInto(bytes, previous.subarray(0, bytes.length));
    },
  };
}

/** XORs into `blocks` the block at `from` of each sector. */
function xorGathered(blocks: Buffer, sectors: Buffer, from: number, sectorSize: number, blockSize: number): void {
  for (let at = 0, sector = from; at < blocks.length; at += blockSize, sector += sectorSize) {
    for (let index = 0; index < blockSize; index += 1) blocks[at + index] ^= sectors[sector + index];
  }
}

/** Puts each of `blocks` at `to` of its sector. */
function scatter(blocks: Buffer, sectors: Buffer, to: number, sectorSize: number, blockSize: number): void {
  for (let at = 0, sector = to; at < blocks.length; at += blockSize, sector += sectorSize) {
    for (let index = 0; index < blockSize; index += 1) sectors[sector + index] = blocks[at + index];
  }
}
