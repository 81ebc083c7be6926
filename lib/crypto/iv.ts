import { ImageError } from '../core/errors.ts';
import { type BlockCipher, blockCipher, type CipherName, isCipherName } from './block-cipher.ts';
import { digest, digestBytes, type HashName } from './hash.ts';

export type IvGenerator = 'plain' | 'plain64' | 'plain64be' | 'essiv';

/** What makes the IVs of sectors, as dm-crypt's documentation names and describes it. */
export interface IvOptions {
  generator: IvGenerator;
  /** Of `essiv`. */
  hash: HashName | null;
  cipher: CipherName;
  key: Uint8Array;
}

/**
 * Writes the IVs of consecutive sectors, each as long as the cipher's block, over all of `ivs`. `number` is that of the
 * first, and `step` what each adds to it: 1 where sectors have 512 bytes.
 */
export type IvWriter = (ivs: Buffer, number: number, step: number) => void;

/** The generator for a cipher whose blocks have `blockSize` bytes. */
export function ivWriter(options: IvOptions, blockSize: number): IvWriter {
  switch (options.generator) {
    case 'plain':
      return (ivs, number, step) => plain(ivs, number, step, blockSize, false);
    case 'plain64':
      return (ivs, number, step) => plain(ivs, number, step, blockSize, true);
    case 'plain64be':
      return (ivs, number, step) => plain64be(ivs, number, step, blockSize);
    case 'essiv':
      return essiv(essivCipher(options), blockSize);
  }
}

const WORD = 0x1_0000_0000;

/** The number, little-endian, in the first 8 bytes; `plain` has only its low 32 bits. */
function plain(ivs: Buffer, first: number, step: number, blockSize: number, high: boolean): void {
  const view = new DataView(ivs.buffer, ivs.byteOffset, ivs.length);
  for (let at = 0, number = first; at < ivs.length; at += blockSize, number += step) {
    // Writing takes the low 32 bits of a whole number, much faster than `%` does.
    view.setUint32(at, number, true);
    view.setUint32(at + 4, high ? number / WORD : 0, true);
    for (let rest = at + 8; rest < at + blockSize; rest += 4) view.setUint32(rest, 0);
  }
}

/** The number, big-endian, in the last 8 bytes. */
function plain64be(ivs: Buffer, first: number, step: number, blockSize: number): void {
  ivs.fill(0);
  for (let at = blockSize - 8, number = first; at < ivs.length; at += blockSize, number += step) {
    ivs.writeUInt32BE(Math.floor(number / WORD), at);
    ivs.writeUInt32BE(number % WORD, at + 4);
  }
}

/** The number as in `plain64`, encrypted. */
function essiv(cipher: BlockCipher, blockSize: number): IvWriter {
  return (ivs, number, step) => {
    plain(ivs, number, step, blockSize, true);
    const encrypted = cipher.encrypt(ivs);
    if (encrypted !== ivs) encrypted.copy(ivs);
  };
}

/** The cipher's sibling whose key is as long as the digest of the disk's key, with that digest for a key. */
function essivCipher({ cipher, hash, key }: IvOptions): BlockCipher {
  if (hash === null) throw new ImageError('invalid', `IV generator 'essiv' needs a hash`);
  const bytes = digestBytes(hash);
  const family = cipher.slice(0, cipher.indexOf('-'));
  const name = `${family}-${bytes * 8}`;
  if (isCipherName(name)) return blockCipher(name, digest(hash, key));
  const title = TITLES[family];
  if (title === undefined) throw new ImageError('unsupported', `Cipher ${cipher} not supported with essiv`);
  throw new ImageError('unsupported', `No ${title} cipher with key size ${bytes} available`);
}

/** Families of ciphers with several sizes of keys. */
const TITLES: Readonly<Record<string, string>> = { aes: 'AES', serpent: 'Serpent', twofish: 'Twofish' };
