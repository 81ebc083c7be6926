import type { BlockCipher } from '../ciphers/block-cipher.ts';
import type { IvWriter } from '../iv.ts';
import { sharedKernel } from '../wasm/kernel.ts';
import type { Mode } from './mode.ts';

const BLOCK = 16;

/**
 * XTS (IEEE 1619-2007): each block XORed with its tweak, encrypted, and XORed with it again. A sector's first tweak is
 * its IV, encrypted with the second key; each next one is the last times x in GF(2^128).
 */
export function xts(cipher: BlockCipher, tweakCipher: BlockCipher, writeIvs: IvWriter, sectorSize: number): Mode {
  const kernel = sharedKernel();
  const blocks = sectorSize / BLOCK;
  const apply = (bytes: Buffer, number: number, encryption: (blocks: Buffer) => Buffer) => {
    const sectors = bytes.length / sectorSize;
    const tweaks = kernel.tweaks.subarray(0, sectors * BLOCK);
    writeIvs(tweaks, number, sectorSize / 512);
    tweaks.set(tweakCipher.encrypt(tweaks));
    const data = kernel.data.subarray(0, bytes.length);
    data.set(bytes);
    kernel.whiten(sectors, blocks);
    data.set(encryption(data));
    kernel.xor(bytes.length);
    bytes.set(data);
  };
  return {
    encrypt: (bytes, number) => apply(bytes, number, cipher.encrypt),
    decrypt: (bytes, number) => apply(bytes, number, cipher.decrypt),
  };
}
