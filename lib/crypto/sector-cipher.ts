import { ImageError } from '../core/errors.ts';
import { blockCipher, type CipherName, cipherKeyBytes } from './block-cipher.ts';
import type { HashName } from './hash.ts';
import { type IvGenerator, type IvWriter, ivWriter } from './iv.ts';
import { cbc } from './modes/cbc.ts';
import { ctr } from './modes/ctr.ts';
import { ecb } from './modes/ecb.ts';
import { type Mode, PIECE } from './modes/mode.ts';
import { xts } from './modes/xts.ts';

export type { CipherName } from './block-cipher.ts';
export type { HashName } from './hash.ts';
export type { IvGenerator } from './iv.ts';
export type CipherMode = 'ecb' | 'cbc' | 'xts' | 'ctr';

/** How the sectors of a disk are encrypted. */
export interface SectorCipherSpec {
  cipher: CipherName;
  mode: CipherMode;
  /** Null where the mode takes no IV (ecb). */
  ivGenerator: IvGenerator | null;
  /** Of `essiv`. */
  ivHash: HashName | null;
  /** XTS takes two keys, so twice the bytes that the cipher's name says. */
  key: Uint8Array;
  /** Bytes that are encrypted with one IV: 512, or up to 4096 in LUKS2. */
  sectorSize: number;
}

/**
 * Encrypts whole sectors where they lie. `offset` is the place of the first in bytes, a multiple of the sector size;
 * IVs are made of the number of the 512-byte sector there, whatever `sectorSize` is (as dm-crypt does by default).
 */
export interface SectorCipher {
  readonly sectorSize: number;
  encrypt(bytes: Buffer, offset: number): void;
  decrypt(bytes: Buffer, offset: number): void;
}

/**
 * The same for bulk work: batches of up to some MiB, several at a time, which may be done in other threads. Until the
 * promise has settled nobody else may touch `bytes`.
 */
export interface DiskCipher {
  readonly sectorSize: number;
  encrypt(bytes: Buffer, offset: number): Promise<void>;
  decrypt(bytes: Buffer, offset: number): Promise<void>;
  /** Lets go of threads. Idempotent; what is under way ends first. */
  close(): Promise<void>;
}

const MAX_SECTOR = 4096;

/** Bytes of the key that `cipher` takes in `mode`. */
export function keyBytes(cipher: CipherName, mode: CipherMode): number {
  return cipherKeyBytes(cipher) * (mode === 'xts' ? 2 : 1);
}

/** The cipher of `spec`; an ImageError, in QEMU's words where it has any, for what there is none of. */
export function sectorCipher(spec: SectorCipherSpec): SectorCipher {
  const { cipher, mode: name, key, sectorSize } = spec;
  if (sectorSize < 512 || sectorSize > MAX_SECTOR || !Number.isInteger(Math.log2(sectorSize))) {
    throw new ImageError('unsupported', `Encrypted sectors of ${sectorSize} bytes are not supported`);
  }
  if (key.length !== keyBytes(cipher, name)) {
    const message = `A key of ${cipher} in ${name} mode has ${keyBytes(cipher, name)} bytes, not ${key.length}`;
    throw new ImageError('invalid', message);
  }
  const mode = modeOf(spec);
  const inPieces = (work: Mode['encrypt']) => (bytes: Buffer, offset: number) => {
    checkPlace(bytes, offset, sectorSize);
    for (let at = 0; at < bytes.length; at += PIECE) {
      work(bytes.subarray(at, at + PIECE), (offset + at) / 512);
    }
  };
  return { sectorSize, encrypt: inPieces(mode.encrypt), decrypt: inPieces(mode.decrypt) };
}

function modeOf(spec: SectorCipherSpec): Mode {
  const { cipher: name, mode, key, sectorSize } = spec;
  if (mode === 'xts') {
    const half = key.length / 2;
    const cipher = blockCipher(name, key.subarray(0, half));
    if (cipher.blockSize !== 16) throw new ImageError('unsupported', `Unsupported cipher mode ${mode}`);
    return xts(cipher, blockCipher(name, key.subarray(half)), ivs(spec, 16), sectorSize);
  }
  const cipher = blockCipher(name, key);
  if (mode === 'ecb') {
    // An IV that can't be made is an error even where none is needed.
    if (spec.ivGenerator !== null) ivs(spec, cipher.blockSize);
    return ecb(cipher);
  }
  return (mode === 'cbc' ? cbc : ctr)(cipher, ivs(spec, cipher.blockSize), sectorSize);
}

function ivs({ cipher, mode, ivGenerator: generator, ivHash: hash, key }: SectorCipherSpec, size: number): IvWriter {
  if (generator === null) throw new ImageError('invalid', `Cipher mode ${mode} needs an IV generator`);
  return ivWriter({ generator, hash, cipher, key }, size);
}

function checkPlace(bytes: Buffer, offset: number, sectorSize: number): void {
  if (bytes.length % sectorSize !== 0 || offset % sectorSize !== 0) {
    throw new ImageError('invalid', `${bytes.length} bytes at ${offset} are no whole sectors of ${sectorSize} bytes`);
  }
}
