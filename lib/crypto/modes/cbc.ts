import type { BlockCipher } from '../ciphers/block-cipher.ts';
import type { IvWriter } from '../iv.ts';
import { type Kernel, sharedKernel } from '../wasm/kernel.ts';
import { type Mode, PIECE } from './mode.ts';

/** Cipher block chaining (NIST SP 800-38A, section 6.2), each sector a chain of its own. */
export function cbc(cipher: BlockCipher, writeIvs: IvWriter, sectorSize: number): Mode {
  const kernel = sharedKernel();
  // The block of each sector that is being encrypted, one after the other; before the first, the IVs.
  const chains = new Int32Array(((PIECE / sectorSize) * cipher.blockSize) / 4);
  const chainBytes = Buffer.from(chains.buffer);
  const start = (bytes: Buffer, number: number): Buffer => {
    kernel.data.set(bytes);
    const ivs = chainBytes.subarray(0, (bytes.length / sectorSize) * cipher.blockSize);
    writeIvs(ivs, number, sectorSize / 512);
    return ivs;
  };
  return {
    encrypt(bytes, number) {
      encryptChains(cipher, kernel, sectorSize, chains, start(bytes, number));
      bytes.set(kernel.data.subarray(0, bytes.length));
    },
    decrypt(bytes, number) {
      const ivs = start(bytes, number);
      decryptChains(cipher, kernel, sectorSize, bytes.length, ivs);
      bytes.set(kernel.data.subarray(0, bytes.length));
    },
  };
}

/**
 * A chain is encrypted block after block, but the chains are independent: all first blocks go through the cipher in one
 * call, then all second ones, …
 */
function encryptChains(
  { blockSize, encrypt }: BlockCipher,
  { data }: Kernel,
  sectorSize: number,
  chains: Int32Array,
  used: Buffer,
): void {
  const words = new Int32Array(data.buffer, data.byteOffset, data.length / 4);
  const [block, sector, count] = [blockSize / 4, sectorSize / 4, used.length / 4];
  for (let from = 0; from < sector; from += block) {
    for (let at = 0, base = from; at < count; at += block, base += sector) {
      for (let word = 0; word < block; word += 1) chains[at + word] ^= words[base + word];
    }
    used.set(encrypt(used));
    for (let at = 0, base = from; at < count; at += block, base += sector) {
      for (let word = 0; word < block; word += 1) words[base + word] = chains[at + word];
    }
  }
}

/** All blocks at once, and each XORed with the encrypted one before it, a sector's first one with the IV. */
function decryptChains(
  { blockSize, decrypt }: BlockCipher,
  { data, mask, xor }: Kernel,
  sectorSize: number,
  length: number,
  ivs: Buffer,
): void {
  const encrypted = data.subarray(0, length);
  mask.set(encrypted.subarray(0, length - blockSize), blockSize);
  for (let from = 0, sector = 0; from < ivs.length; from += blockSize, sector += sectorSize) {
    ivs.copy(mask, sector, from, from + blockSize);
  }
  encrypted.set(decrypt(encrypted));
  xor(length);
}
