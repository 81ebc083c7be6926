import type { BlockCipher } from '../block-cipher.ts';
import type { IvWriter } from '../iv.ts';
import { type Mode, PIECE, xorInto } from './mode.ts';

const BLOCK = 16;

/**
 * XTS (IEEE 1619-2007): each block XORed with its tweak, encrypted, and XORed with it again. A sector's first tweak is
 * its IV, encrypted with the second key; each next one is the last times x in GF(2^128).
 */
export function xts(cipher: BlockCipher, tweakCipher: BlockCipher, writeIvs: IvWriter, sectorSize: number): Mode {
  const tweaks = Buffer.alloc(PIECE);
  const ivs = Buffer.alloc((PIECE / sectorSize) * BLOCK);
  const apply = (bytes: Buffer, number: number, encryption: (blocks: Buffer) => Buffer) => {
    const firsts = ivs.subarray(0, (bytes.length / sectorSize) * BLOCK);
    writeIvs(firsts, number, sectorSize / 512);
    expand(tweakCipher.encrypt(firsts), tweaks, sectorSize);
    const used = tweaks.subarray(0, bytes.length);
    xorInto(bytes, used);
    bytes.set(encryption(bytes));
    xorInto(bytes, used);
  };
  return {
    encrypt: (bytes, number) => apply(bytes, number, cipher.encrypt),
    decrypt: (bytes, number) => apply(bytes, number, cipher.decrypt),
  };
}

/** Writes the tweaks of whole sectors, given the first tweak of each. */
function expand(firsts: Buffer, tweaks: Buffer, sectorSize: number): void {
  for (let from = 0, sector = 0; from < firsts.length; from += BLOCK, sector += sectorSize) {
    firsts.copy(tweaks, sector, from, from + BLOCK);
    for (let at = sector + BLOCK; at < sector + sectorSize; at += BLOCK) timesX(tweaks, at);
  }
}

/** The block at `at` becomes the one before it, times x: little-endian, modulo x^128 + x^7 + x^2 + x + 1. */
function timesX(tweaks: Buffer, at: number): void {
  let carry = 0;
  for (let index = at; index < at + BLOCK; index += 1) {
    const byte = tweaks[index - BLOCK];
    tweaks[index] = (byte << 1) | carry;
    carry = byte >> 7;
  }
  if (carry !== 0) tweaks[at] ^= 0x87;
}
