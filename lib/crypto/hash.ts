import { hash as digestOf } from 'node:crypto';

/** Hashes by QEMU's names (QAPI QCryptoHashAlgorithm), which are OpenSSL's as well. */
export type HashName = 'md5' | 'sha1' | 'sha224' | 'sha256' | 'sha384' | 'sha512' | 'ripemd160';

const DIGEST_BYTES: Readonly<Record<HashName, number>> = {
  md5: 16,
  sha1: 20,
  sha224: 28,
  sha256: 32,
  sha384: 48,
  sha512: 64,
  ripemd160: 20,
};

/** Whether `name`, which a header or a user gave, is a hash that we have. */
export function isHashName(name: string): name is HashName {
  return Object.hasOwn(DIGEST_BYTES, name);
}

/** Bytes of a hash's digest. */
export function digestBytes(hash: HashName): number {
  return DIGEST_BYTES[hash];
}

/** The digest of `parts`, one after the other. In one call: the splitter makes thousands of a few bytes each. */
export function digest(hash: HashName, ...parts: readonly Uint8Array[]): Buffer {
  return digestOf(hash, parts.length === 1 ? parts[0] : Buffer.concat(parts), 'buffer');
}
