import { ImageError } from '../../core/errors.ts';
import type { AnyOptionValues } from '../../core/options.ts';
import { isCipherName } from '../../crypto/block-cipher.ts';
import { isHashName } from '../../crypto/hash.ts';
import { keyBytes } from '../../crypto/sector-cipher.ts';
import { LUKS_SECTOR, LUKS_STRIPES } from '../../layouts/luks.ts';
import {
  checkEssiv,
  LUKS_CIPHER_MODES,
  LUKS_IV_GENERATORS,
  type LuksCipher,
} from '../../sources/encryption/luks-cipher.ts';
import type { luksOptions } from './luks-options.ts';

export const DEFAULT_ITER_TIME = 2000;

/** What a new container is made with. */
export interface LuksSettings extends LuksCipher {
  /** Milliseconds of processor time that unlocking a key slot shall take. */
  iterTime: number;
}

/** In QEMU's list of ciphers, but in no build of it that we know. */
const ABSENT_CIPHERS = ['des', '3des'];

/**
 * What the options say, with QEMU's defaults. ImageError in its words for what is no choice; whether the choices go together
 * is for `checkLuksSettings`, which QEMU asks after the passphrase.
 * @param prefix of the options' names: `encrypt.` in qcow2; messages go without it
 */
export function parseLuksOptions(values: AnyOptionValues, prefix = ''): LuksSettings {
  const given = (key: keyof typeof luksOptions) => {
    const value = values[prefix + key];
    return value === undefined ? null : String(value);
  };
  const cipherName = given('cipher-alg') ?? 'aes-256';
  const isKnown = isCipherName(cipherName) || ABSENT_CIPHERS.includes(cipherName);
  if (!isKnown) throw noChoice('cipher-alg', cipherName);
  const mode = choose('cipher-mode', given('cipher-mode') ?? 'xts', LUKS_CIPHER_MODES);
  const ivGenerator = choose('ivgen-alg', given('ivgen-alg') ?? 'plain64', LUKS_IV_GENERATORS);
  const ivHash = hashOf('ivgen-hash-alg', given('ivgen-hash-alg'));
  const hash = hashOf('hash-alg', given('hash-alg')) ?? 'sha256';
  if (!isCipherName(cipherName)) throw new ImageError('unsupported', `Algorithm '${cipherName}' not supported`);
  return {
    cipher: cipherName,
    mode,
    ivGenerator,
    ivHash: ivGenerator === 'essiv' ? (ivHash ?? 'sha256') : ivHash,
    hash,
    iterTime: Number(values[`${prefix}iter-time`] ?? DEFAULT_ITER_TIME),
  };
}

/** Throws where no container can be made so. */
export function checkLuksSettings(settings: LuksSettings): void {
  checkEssiv(settings);
  const { cipher, mode } = settings;
  // qemu-img aborts here: it encrypts whole sectors, and the key material is none. What cryptsetup makes of it can be read.
  if ((keyBytes(cipher, mode) * LUKS_STRIPES) % LUKS_SECTOR !== 0) {
    throw new ImageError('unsupported', `Algorithm '${cipher}' is not supported in mode '${mode}'`);
  }
}

function choose<C extends string>(key: string, value: string, choices: readonly C[]): C {
  const found = choices.find((each) => each === value);
  if (found === undefined) throw noChoice(key, value);
  return found;
}

function hashOf(key: string, value: string | null) {
  if (value !== null && !isHashName(value)) throw noChoice(key, value);
  return value;
}

function noChoice(key: string, value: string): ImageError {
  return new ImageError('invalid', `Parameter '${key}' does not accept value '${value}'`);
}
