import { timingSafeEqual } from 'node:crypto';
import { ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import { diskCipher } from '../../crypto/disk-cipher.ts';
import { digestBytes, type HashName, isHashName } from '../../crypto/hash.ts';
import { deriveKey } from '../../crypto/pbkdf2.ts';
import { type DiskCipher, type SectorCipherSpec, sectorCipher } from '../../crypto/sector-cipher.ts';
import { mergeKey } from '../../crypto/splitter.ts';
import { LUKS_SECTOR } from '../../layouts/luks.ts';
import { type Luks2KeySlot, materialBytes } from '../../layouts/luks2-metadata.ts';
import type { Storage } from '../../storage/storage.ts';
import { MAX_UNLOCK_ITERATIONS } from './luks.ts';
import { type LuksCipher, parseLuksCipher, sectorSpec } from './luks-cipher.ts';
import { inFile, type Luks2Header } from './luks2.ts';

/**
 * KiB times passes of Argon2 that one attempt to unlock may take, over all key slots: some minutes. `cryptsetup` takes a
 * GiB and a handful of passes a slot.
 */
const MAX_UNLOCK_WORK = 2 ** 26;

const traceUnlock = tracePoint('luks2_unlock');

export interface UnlockedLuks2 {
  masterKey: Buffer;
  /** The key slot that the passphrase fits. */
  slot: number;
}

/**
 * Finds the volume key by trying `passphrase` on the key slots that open the payload, the preferred ones first. ImageError
 * `refused` where it fits none; `corrupt` or `unsupported` for slots that would take too long or too much memory.
 */
export async function unlockLuks2(
  storage: Storage,
  header: Luks2Header,
  passphrase: Uint8Array,
): Promise<UnlockedLuks2> {
  try {
    // What can't be had is told before time is spent on finding the key.
    checkCipher(header);
    const budget = new Budget();
    for (const slot of slotsToTry(header)) {
      budget.spend(header.digest.iterations, slot);
      const masterKey = await openSlot(storage, header, slot, passphrase);
      if (masterKey === null) continue;
      if (traceUnlock.enabled) traceUnlock.emit({ file: storage.name, slot: slot.id });
      return { masterKey, slot: slot.id };
    }
  } catch (error) {
    throw inFile(error, storage);
  }
  throw new ImageError('refused', 'Invalid password, cannot unlock any keyslot', { file: storage.name });
}

/** Slots of priority 0 are for those who ask for them by number. */
function slotsToTry({ keySlots, digest: { keySlots: ids } }: Luks2Header): Luks2KeySlot[] {
  const usable = keySlots.filter(({ id, priority }) => priority > 0 && ids.includes(id));
  return usable.sort((left, right) => right.priority - left.priority || left.id - right.id);
}

/** The cipher of the payload, whose first byte is at offset 0. */
export function volumeCipher(header: Luks2Header, masterKey: Buffer): DiskCipher {
  const cipher = diskCipher(volumeSpec(header, masterKey));
  const shift = header.segment.ivTweak * LUKS_SECTOR;
  if (shift === 0) return cipher;
  return {
    sectorSize: cipher.sectorSize,
    encrypt: (bytes, offset) => cipher.encrypt(bytes, offset + shift),
    decrypt: (bytes, offset) => cipher.decrypt(bytes, offset + shift),
    close: () => cipher.close(),
  };
}

function volumeSpec({ segment, digest }: Luks2Header, masterKey: Buffer): SectorCipherSpec {
  const cipher = parseEncryption(segment.encryption, masterKey.length, digest.hash);
  return { ...sectorSpec(cipher, masterKey), sectorSize: segment.sectorSize };
}

function checkCipher(header: Luks2Header): void {
  const { sectorSize, ivTweak } = header.segment;
  // Offsets are shifted by the tweak: they stay whole sectors, below 2^53 in any file.
  if ((ivTweak * LUKS_SECTOR) % sectorSize !== 0 || ivTweak > 2 ** 43) {
    throw new ImageError('unsupported', `An IV tweak of ${ivTweak} is not supported`);
  }
  for (const { keyBytes } of slotsToTry(header)) sectorCipher(volumeSpec(header, Buffer.alloc(keyBytes)));
}

/** `aes-xts-plain64`: the cipher, and what LUKS1 calls its mode. */
function parseEncryption(encryption: string, keyBytes: number, hash: string): LuksCipher {
  const dash = encryption.indexOf('-');
  if (dash < 0) throw new ImageError('unsupported', `Unexpected cipher string format '${encryption}'`);
  const [cipherName, cipherMode] = [encryption.slice(0, dash), encryption.slice(dash + 1)];
  return parseLuksCipher({ cipherName, cipherMode, keyBytes, hash });
}

/** The volume key out of a slot; null where the passphrase is not the slot's. */
async function openSlot(
  storage: Storage,
  header: Luks2Header,
  slot: Luks2KeySlot,
  passphrase: Uint8Array,
): Promise<Buffer | null> {
  const { area, keyBytes, stripes, splitterHash } = slot;
  const { hash, iterations, salt, digest: expected } = header.digest;
  const [split, verify] = [hashNamed(splitterHash), hashNamed(hash)];
  if (expected.length > digestBytes(verify)) {
    throw new ImageError('corrupt', 'The digest of the LUKS2 container is too long');
  }
  const areaCipher = parseEncryption(area.encryption, area.keyBytes, hash);
  const areaKey = await slotKey(slot, passphrase);
  const material = Buffer.alloc(materialBytes(slot));
  await storage.read(area.offset, material);
  // Sectors are counted from the area's start.
  sectorCipher(sectorSpec(areaCipher, areaKey)).decrypt(material, 0);
  const candidate = mergeKey(split, material.subarray(0, keyBytes * stripes), keyBytes, stripes);
  const found = await deriveKey(verify, candidate, salt, iterations, expected.length);
  return timingSafeEqual(found, expected) ? candidate : null;
}

async function slotKey({ kdf, area }: Luks2KeySlot, passphrase: Uint8Array): Promise<Buffer> {
  if (kdf.type === 'pbkdf2') {
    return deriveKey(hashNamed(kdf.hash), passphrase, kdf.salt, kdf.iterations, area.keyBytes);
  }
  // Loaded only here: few images need it.
  const { argon2Key } = await import('../../crypto/argon2.ts');
  return argon2Key(kdf.type, passphrase, kdf.salt, kdf, area.keyBytes);
}

/** What trying may cost altogether: a file can name 32 slots, each with years of work. */
class Budget {
  #iterations = 0;
  #work = 0;

  spend(iterations: number, { id, kdf }: Luks2KeySlot): void {
    this.#iterations += iterations;
    if (kdf.type === 'pbkdf2') this.#iterations += kdf.iterations;
    else this.#work += kdf.time * kdf.memory;
    if (this.#iterations <= MAX_UNLOCK_ITERATIONS && this.#work <= MAX_UNLOCK_WORK) return;
    throw new ImageError('corrupt', `Key slot ${id} takes more work than any honest one does`);
  }
}

function hashNamed(name: string): HashName {
  if (!isHashName(name)) throw new ImageError('unsupported', `Hash algorithm '${name}' not supported`);
  return name;
}
