import { ImageError } from '../../core/errors.ts';
import { type CipherName, cipherBlockBytes, cipherKeyBytes, isCipherName } from '../../crypto/block-cipher.ts';
import { digestBytes, type HashName, isHashName } from '../../crypto/hash.ts';
import { type CipherMode, type IvGenerator, keyBytes, type SectorCipherSpec } from '../../crypto/sector-cipher.ts';
import { LUKS_SECTOR } from '../../layouts/luks.ts';

/** How a container is encrypted: what its header says in words, or what a new one's shall say. */
export interface LuksCipher {
  cipher: CipherName;
  mode: CipherMode;
  ivGenerator: IvGenerator;
  /** `essiv` needs one; with the others it may be named, and means nothing. */
  ivHash: HashName | null;
  /** Of PBKDF2 and of the anti-forensic splitter. */
  hash: HashName;
}

export const LUKS_CIPHER_MODES = ['ecb', 'cbc', 'xts', 'ctr'] as const satisfies readonly CipherMode[];
export const LUKS_IV_GENERATORS = ['plain', 'plain64', 'essiv'] as const satisfies readonly IvGenerator[];

/** The names of the families of ciphers in a LUKS1 header, with those that QEMU's messages have. */
const FAMILIES: Readonly<Record<string, string>> = {
  aes: 'AES',
  serpent: 'Serpent',
  twofish: 'Twofish',
  cast5: 'CAST5',
};

/** The words of a LUKS1 header. */
export interface LuksCipherWords {
  cipherName: string;
  cipherMode: string;
  hash: string;
  /** Of the master key. */
  keyBytes: number;
}

/**
 * What the words of a header mean (LUKS On-Disk Format Specification 1.2.3, section 7, "Registry"; `generator:hash` is as
 * dm-crypt has it). ImageError `unsupported` in QEMU's words.
 */
export function parseLuksCipher({ cipherName, cipherMode, hash, keyBytes: bytes }: LuksCipherWords): LuksCipher {
  const dash = cipherMode.indexOf('-');
  if (dash < 0) throw unsupported(`Unexpected cipher mode string format '${cipherMode}'`);
  const modeName = cipherMode.slice(0, dash);
  const generator = cipherMode.slice(dash + 1);
  const colon = generator.indexOf(':');
  const ivHash = colon < 0 ? null : hashNamed(generator.slice(colon + 1));
  const mode = LUKS_CIPHER_MODES.find((each) => each === modeName);
  if (mode === undefined) throw unsupported(`Cipher mode '${modeName}' not supported`);
  const parsed: LuksCipher = {
    cipher: cipherNamed(cipherName, mode === 'xts' ? Math.floor(bytes / 2) : bytes),
    mode,
    hash: hashNamed(hash),
    ivGenerator: generatorNamed(colon < 0 ? generator : generator.slice(0, colon)),
    ivHash,
  };
  if (keyBytes(parsed.cipher, mode) !== bytes) {
    throw unsupported(`Algorithm '${cipherName}' with key size ${bytes} bytes not supported`);
  }
  checkEssiv(parsed);
  return parsed;
}

/** The words for a header. */
export function luksCipherWords({ cipher, mode, ivGenerator, ivHash, hash }: LuksCipher): LuksCipherWords {
  return {
    cipherName: cipher.slice(0, cipher.indexOf('-')),
    cipherMode: `${mode}-${ivGenerator}${ivHash === null ? '' : `:${ivHash}`}`,
    hash,
    keyBytes: keyBytes(cipher, mode),
  };
}

/** The cipher with its key. */
export function sectorSpec({ cipher, mode, ivGenerator, ivHash }: LuksCipher, key: Uint8Array): SectorCipherSpec {
  return {
    cipher,
    mode,
    ivGenerator: mode === 'ecb' ? null : ivGenerator,
    ivHash: mode !== 'ecb' && ivGenerator === 'essiv' ? ivHash : null,
    key,
    sectorSize: LUKS_SECTOR,
  };
}

/** ESSIV encrypts the sector's number with a digest of the key: one that the cipher can take as a key. */
export function checkEssiv({ cipher, ivGenerator, ivHash }: LuksCipher): void {
  if (ivGenerator !== 'essiv') return;
  if (ivHash === null) throw unsupported('Missing IV generator hash specification');
  const family = cipher.slice(0, cipher.indexOf('-'));
  const bytes = digestBytes(ivHash);
  if (findCipher(family, bytes) !== null) return;
  if (cipherBlockBytes(cipher) !== 16) throw unsupported(`Cipher ${cipher} not supported with essiv`);
  throw unsupported(`No ${FAMILIES[family]} cipher with key size ${bytes} available`);
}

function findCipher(family: string, bytes: number): CipherName | null {
  const name = `${family}-${bytes * 8}`;
  return isCipherName(name) && cipherKeyBytes(name) === bytes ? name : null;
}

function cipherNamed(family: string, bytes: number): CipherName {
  const found = Object.hasOwn(FAMILIES, family) ? findCipher(family, bytes) : null;
  if (found === null) throw unsupported(`Algorithm '${family}' with key size ${bytes} bytes not supported`);
  return found;
}

function generatorNamed(name: string): IvGenerator {
  const found = LUKS_IV_GENERATORS.find((each) => each === name);
  if (found === undefined) throw unsupported(`IV generator '${name}' not supported`);
  return found;
}

function hashNamed(name: string): HashName {
  if (!isHashName(name)) throw unsupported(`Hash algorithm '${name}' not supported`);
  return name;
}

function unsupported(message: string): ImageError {
  return new ImageError('unsupported', message);
}
