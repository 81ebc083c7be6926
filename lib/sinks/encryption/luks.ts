import { randomBytes, randomUUID } from 'node:crypto';
import { alignUp } from '../../core/binary.ts';
import { tracePoint } from '../../core/trace.ts';
import { diskCipher } from '../../crypto/disk-cipher.ts';
import { digestBytes } from '../../crypto/hash.ts';
import { deriveKey, MIN_ITERATIONS } from '../../crypto/pbkdf2.ts';
import { type DiskCipher, keyBytes } from '../../crypto/sector-cipher.ts';
import {
  encodeLuksHeader,
  LUKS_DIGEST_BYTES,
  LUKS_HEADER_AREA,
  LUKS_SALT_BYTES,
  LUKS_SLOTS,
  LUKS_STRIPES,
  type LuksHeader,
  type LuksKeySlot,
} from '../../layouts/luks.ts';
import { type LuksCipher, luksCipherWords, sectorSpec } from '../../sources/encryption/luks-cipher.ts';
import { countIterations, ERASED_SLOT, fillSlot } from './key-slot.ts';
import { checkLuksSettings, type LuksSettings } from './luks-settings.ts';

export { amendLuks } from './key-slots.ts';
export { luksAmendOptions, luksOptions } from './luks-options.ts';
export { checkLuksSettings, type LuksSettings, parseLuksOptions } from './luks-settings.ts';

/** Key material begins at multiples of this: a flash page, says the specification. */
const SLOT_ALIGNMENT = 4096;
/** The digest of the master key takes an eighth of the time of a key slot. */
const DIGEST_SHARE = 8;

const tracePrepare = tracePoint('luks_prepare');

/** A new container, but for its payload. */
export interface NewLuks {
  header: LuksHeader;
  /** The header and all key material: what lies before the payload, `payloadOffset` bytes. Only the first `usedBytes` matter. */
  bytes: Buffer;
  /** The rest of `bytes` is the room of key slots that are not in use: zeros. */
  usedBytes: number;
  payloadOffset: number;
  cipher: DiskCipher;
  masterKey: Buffer;
}

/** Bytes before the payload of a container with these settings. */
export function luksPayloadOffset(settings: LuksCipher): number {
  return LUKS_HEADER_AREA + LUKS_SLOTS * slotBytes(settings);
}

function slotBytes({ cipher, mode }: LuksCipher): number {
  return alignUp(keyBytes(cipher, mode) * LUKS_STRIPES, SLOT_ALIGNMENT);
}

/**
 * Makes the header and the first key slot of a new container with a random master key. Nothing is written. ImageError
 * for settings that can't be.
 */
export async function prepareLuks(settings: LuksSettings, passphrase: Uint8Array): Promise<NewLuks> {
  checkLuksSettings(settings);
  const masterKey = randomBytes(keyBytes(settings.cipher, settings.mode));
  const cipher = diskCipher(sectorSpec(settings, masterKey));
  const digestSalt = randomBytes(LUKS_SALT_BYTES);
  const iterations = countIterations(settings, settings.iterTime);
  const digestIterations = forDigest(iterations, settings);
  const payloadOffset = luksPayloadOffset(settings);
  const header: LuksHeader = {
    ...luksCipherWords(settings),
    payloadOffset,
    digest: await deriveKey(settings.hash, masterKey, digestSalt, digestIterations, LUKS_DIGEST_BYTES),
    digestSalt,
    digestIterations,
    uuid: randomUUID(),
    slots: emptySlots(settings),
  };
  const { slot, material } = await fillSlot(header, { index: 0, masterKey, passphrase, iterations });
  header.slots[0] = slot;
  const bytes = Buffer.alloc(payloadOffset);
  encodeLuksHeader(header).copy(bytes);
  material.copy(bytes, slot.keyOffset);
  if (tracePrepare.enabled) tracePrepare.emit({ cipher: settings.cipher, iterations: slot.iterations, payloadOffset });
  return { header, bytes, usedBytes: slot.keyOffset + material.length, payloadOffset, cipher, masterKey };
}

function emptySlots(settings: LuksCipher): LuksKeySlot[] {
  const room = slotBytes(settings);
  return Array.from({ length: LUKS_SLOTS }, (_, index) => ({
    ...ERASED_SLOT,
    keyOffset: LUKS_HEADER_AREA + index * room,
    stripes: LUKS_STRIPES,
  }));
}

/** A digest is one block of PBKDF2, and the key of a slot perhaps several, each of which takes as long. */
function forDigest(iterations: number, { cipher, mode, hash }: LuksCipher): number {
  const blocks = Math.ceil(keyBytes(cipher, mode) / digestBytes(hash));
  return Math.max(MIN_ITERATIONS, Math.floor((iterations * blocks) / DIGEST_SHARE));
}
