import { randomBytes } from 'node:crypto';
import { ImageError } from '../../core/errors.ts';
import type { HashName } from '../../crypto/hash.ts';
import { deriveKey, iterationsFor, MIN_ITERATIONS } from '../../crypto/pbkdf2.ts';
import { keyBytes, sectorCipher } from '../../crypto/sector-cipher.ts';
import { splitKey } from '../../crypto/splitter.ts';
import { keyMaterialBytes, LUKS_SALT_BYTES, type LuksHeader, type LuksKeySlot } from '../../layouts/luks.ts';
import { MAX_UNLOCK_ITERATIONS } from '../../sources/encryption/luks.ts';
import { type LuksCipher, parseLuksCipher, sectorSpec } from '../../sources/encryption/luks-cipher.ts';

/** More could be written, but would not be opened again. */
const MAX_SLOT_ITERATIONS = MAX_UNLOCK_ITERATIONS / 4;

/** What the header says of a slot that is not in use, beside where its room is. */
export const ERASED_SLOT = { active: false, iterations: 0, salt: Buffer.alloc(LUKS_SALT_BYTES) } as const;

export interface SlotSecrets {
  index: number;
  masterKey: Buffer;
  passphrase: Uint8Array;
  iterations: number;
}

/** The key slot of that index with the master key for a passphrase, and the key material for its place. */
export async function fillSlot(
  header: LuksHeader,
  { index, masterKey, passphrase, iterations }: SlotSecrets,
): Promise<{ slot: LuksKeySlot; material: Buffer }> {
  const cipher = parseLuksCipher(header);
  const slot = { ...header.slots[index], active: true, iterations, salt: randomBytes(LUKS_SALT_BYTES) };
  const key = await deriveKey(cipher.hash, passphrase, slot.salt, iterations, header.keyBytes);
  const material = Buffer.alloc(keyMaterialBytes(header, slot));
  splitKey(cipher.hash, masterKey, slot.stripes).copy(material);
  sectorCipher(sectorSpec(cipher, key)).encrypt(material, 0);
  return { slot, material };
}

/** Iterations in a second, once measured, by hash and key length. */
const rates = new Map<string, number>();

function iterationsPerSecond(hash: HashName, length: number): number {
  const key = `${hash} ${length}`;
  const rate = rates.get(key) ?? iterationsFor(hash, 1000, length);
  rates.set(key, rate);
  return rate;
}

/** PBKDF2 iterations of a key slot that takes so many milliseconds to unlock. */
export function countIterations({ cipher, mode, hash }: LuksCipher, milliseconds: number): number {
  const rate = iterationsPerSecond(hash, keyBytes(cipher, mode));
  const count = Math.max(MIN_ITERATIONS, Math.floor((rate * milliseconds) / 1000));
  if (count <= MAX_SLOT_ITERATIONS) return count;
  throw new ImageError(
    'invalid',
    `PBKDF iterations ${count} larger than ${MAX_SLOT_ITERATIONS}: Numerical result out of range`,
  );
}
