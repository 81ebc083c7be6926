import type { BlockCipher } from '../ciphers/block-cipher.ts';
import type { IvWriter } from '../iv.ts';
import { sharedKernel } from '../wasm/kernel.ts';
import type { Mode } from './mode.ts';
import { smallBlockCbc } from './small-block-cbc.ts';

const BLOCK = 16;

/**
 * Cipher block chaining (NIST SP 800-38A, section 6.2), each sector a chain of its own. A chain is encrypted block after
 * block, but the chains are independent: all first blocks go through the cipher in one call, then all second ones, …
 */
export function cbc(cipher: BlockCipher, writeIvs: IvWriter, sectorSize: number): Mode {
  if (cipher.blockSize !== BLOCK) return smallBlockCbc(cipher, writeIvs, sectorSize);
  const kernel = sharedKernel();
  /** Fills the kernel; gives its IVs, the chains before their first block. */
  const start = (bytes: Buffer, number: number): Buffer => {
    kernel.data.set(bytes);
    const chains = kernel.tweaks.subarray(0, (bytes.length / sectorSize) * BLOCK);
    writeIvs(chains, number, sectorSize / 512);
    return chains;
  };
  return {
    encrypt(bytes, number) {
      const chains = start(bytes, number);
      const count = chains.length / BLOCK;
      for (let block = 0; block < sectorSize; block += BLOCK) {
        kernel.gather(block, sectorSize, count);
        chains.set(cipher.encrypt(chains));
        kernel.scatter('data', block, sectorSize, count);
      }
      bytes.set(kernel.data.subarray(0, bytes.length));
    },
    decrypt(bytes, number) {
      const chains = start(bytes, number);
      // Each block is XORed with the encrypted one before it, a sector's first one with the IV.
      kernel.mask.set(bytes.subarray(0, bytes.length - BLOCK), BLOCK);
      kernel.scatter('mask', 0, sectorSize, chains.length / BLOCK);
      const data = kernel.data.subarray(0, bytes.length);
      data.set(cipher.decrypt(data));
      kernel.xor(bytes.length);
      bytes.set(data);
    },
  };
}
