import { timingSafeEqual } from 'node:crypto';
import { ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import { diskCipher } from '../../crypto/disk-cipher.ts';
import { deriveKey } from '../../crypto/pbkdf2.ts';
import { type DiskCipher, sectorCipher } from '../../crypto/sector-cipher.ts';
import { mergeKey } from '../../crypto/splitter.ts';
import {
  decodeLuksHeader,
  keyMaterialBytes,
  LUKS_DIGEST_BYTES,
  LUKS_HEADER_BYTES,
  type LuksHeader,
  type LuksKeySlot,
} from '../../layouts/luks.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';
import type { InfoValue } from '../source.ts';
import { type LuksCipher, parseLuksCipher, sectorSpec } from './luks-cipher.ts';

/**
 * PBKDF2 iterations that one attempt to unlock may take, over all key slots: a minute or two. Headers have room for 2^32 a
 * slot, which would be the better part of an hour; containers in use have a few million.
 */
export const MAX_UNLOCK_ITERATIONS = 2 ** 27;

const traceUnlock = tracePoint('luks_unlock');

/** Where a container's header and its key material lie in a storage; `length` is the room for them. */
export interface LuksPlace {
  offset: number;
  length: number;
}

export interface UnlockedLuks {
  /** Of the payload: offset 0 is its first byte in format luks, or the file's first in qcow2. */
  cipher: DiskCipher;
  masterKey: Buffer;
  /** The key slot that the passphrase fits. */
  slot: number;
}

/** Reads and checks the header at `offset`; all that it speaks of but the payload lies within `length`. */
export async function readLuksHeader(storage: Storage, offset: number, length: number): Promise<LuksHeader> {
  try {
    const bytes = Buffer.alloc(LUKS_HEADER_BYTES);
    await readPadded(storage, offset, bytes);
    const header = decodeLuksHeader(bytes);
    parseLuksCipher(header);
    for (const [index, slot] of header.slots.entries()) {
      if (slot.keyOffset + keyMaterialBytes(header, slot) <= length) continue;
      throw new ImageError('corrupt', `Keyslot ${index} lies beyond the end of the encryption header`);
    }
    return header;
  } catch (error) {
    throw inPlace(error, storage, offset);
  }
}

/**
 * Finds the master key by trying `passphrase` on every active key slot. ImageError `refused` where it fits none, in QEMU's
 * words; `corrupt` where trying would take longer than any honest container does.
 */
export async function unlockLuks(
  storage: Storage,
  at: LuksPlace,
  header: LuksHeader,
  passphrase: Uint8Array,
): Promise<UnlockedLuks> {
  const parsed = parseLuksCipher(header);
  // What can't be had is told before the time is spent.
  sectorCipher(sectorSpec(parsed, Buffer.alloc(header.keyBytes)));
  const attempt = new UnlockAttempt(storage, at, header, passphrase);
  for (const [index, slot] of header.slots.entries()) {
    const masterKey = slot.active ? await attempt.open(index) : null;
    if (masterKey === null) continue;
    if (traceUnlock.enabled) traceUnlock.emit({ file: storage.name, slot: index });
    return { cipher: diskCipher(sectorSpec(parsed, masterKey)), masterKey, slot: index };
  }
  throw new ImageError('refused', 'Invalid password, cannot unlock any keyslot', { file: storage.name });
}

/** One passphrase on the key slots of one container, within the limit of time. */
export class UnlockAttempt {
  readonly #storage: Storage;
  readonly #at: LuksPlace;
  readonly #header: LuksHeader;
  readonly #cipher: LuksCipher;
  readonly #passphrase: Uint8Array;
  #iterations = 0;

  constructor(storage: Storage, at: LuksPlace, header: LuksHeader, passphrase: Uint8Array) {
    this.#storage = storage;
    this.#at = at;
    this.#header = header;
    this.#cipher = parseLuksCipher(header);
    this.#passphrase = passphrase;
  }

  /** The master key out of the key slot of that index; null where the passphrase is not the slot's. */
  async open(index: number): Promise<Buffer | null> {
    const header = this.#header;
    const slot = header.slots[index];
    this.#spend(index, slot.iterations + header.digestIterations);
    const { hash } = this.#cipher;
    const slotKey = await deriveKey(hash, this.#passphrase, slot.salt, slot.iterations, header.keyBytes);
    const material = await this.#readMaterial(slot, slotKey);
    const length = header.keyBytes * slot.stripes;
    const candidate = mergeKey(hash, material.subarray(0, length), header.keyBytes, slot.stripes);
    const { digestSalt, digestIterations } = header;
    const digest = await deriveKey(hash, candidate, digestSalt, digestIterations, LUKS_DIGEST_BYTES);
    return timingSafeEqual(digest, header.digest) ? candidate : null;
  }

  #spend(index: number, iterations: number): void {
    this.#iterations += iterations;
    if (this.#iterations <= MAX_UNLOCK_ITERATIONS) return;
    const message = `Keyslot ${index} takes ${iterations} iterations: ${MAX_UNLOCK_ITERATIONS} in all are the limit`;
    throw new ImageError('corrupt', message, { file: this.#storage.name });
  }

  async #readMaterial(slot: LuksKeySlot, key: Buffer): Promise<Buffer> {
    const material = Buffer.alloc(keyMaterialBytes(this.#header, slot));
    await this.#storage.read(this.#at.offset + slot.keyOffset, material);
    // Sectors are counted from the key material's start.
    sectorCipher(sectorSpec(this.#cipher, key)).decrypt(material, 0);
    return material;
  }
}

/** What `info` shows of a container: QAPI's QCryptoBlockInfoLUKS. */
export function luksInfo(header: LuksHeader): { [key: string]: InfoValue } {
  const { cipher, mode, ivGenerator, ivHash, hash } = parseLuksCipher(header);
  const info: { [key: string]: InfoValue } = {
    'cipher-alg': cipher,
    'cipher-mode': mode,
    'ivgen-alg': ivGenerator,
    'hash-alg': hash,
    'payload-offset': header.payloadOffset,
    'master-key-iters': header.digestIterations,
    uuid: header.uuid,
    slots: header.slots.map(slotInfo),
  };
  if (ivGenerator === 'essiv' && ivHash !== null) info['ivgen-hash-alg'] = ivHash;
  return info;
}

function slotInfo({ active, iterations, stripes, keyOffset }: LuksKeySlot): InfoValue {
  return active ? { active, iters: iterations, stripes, 'key-offset': keyOffset } : { active, 'key-offset': keyOffset };
}

function inPlace(error: unknown, storage: Storage, offset: number): unknown {
  if (!(error instanceof ImageError) || error.file !== undefined) return error;
  return new ImageError(error.kind, error.message, { file: storage.name, offset, cause: error });
}
