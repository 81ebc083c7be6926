/**
 * LUKS1 (LUKS On-Disk Format Specification 1.2.3): a header of 592 bytes, eight key slots with their key material, and the
 * encrypted payload. Numbers are big-endian; places are in sectors of 512 bytes, counted from the header's start.
 */
import { ImageError } from '../core/errors.ts';

export const LUKS_SECTOR = 512;
export const LUKS_HEADER_BYTES = 592;
/** The header's share of the file: key material begins behind it. */
export const LUKS_HEADER_AREA = 4096;
export const LUKS_SLOTS = 8;
/** Stripes of the anti-forensic splitter: the one number that is in use. */
export const LUKS_STRIPES = 4000;
export const LUKS_DIGEST_BYTES = 20;
export const LUKS_SALT_BYTES = 32;

const MAGIC = Buffer.from('LUKS\xba\xbe', 'latin1');
const NAME_BYTES = 32;
const UUID_BYTES = 40;
const SLOT_BYTES = 48;
const At = {
  version: 6,
  cipherName: 8,
  cipherMode: 40,
  hash: 72,
  payload: 104,
  keyBytes: 108,
  digest: 112,
  digestSalt: 132,
  digestIterations: 164,
  uuid: 168,
  slots: 208,
} as const;
const SlotAt = { state: 0, iterations: 4, salt: 8, keyMaterial: 40, stripes: 44 } as const;
const SlotState = { enabled: 0x00ac71f3, disabled: 0x0000dead } as const;

export interface LuksKeySlot {
  active: boolean;
  /** PBKDF2 iterations, from the passphrase to the key of the key material. */
  iterations: number;
  salt: Buffer;
  /** Of the key material, in bytes from the header's start. */
  keyOffset: number;
  stripes: number;
}

export interface LuksHeader {
  /** Such as `aes`. */
  cipherName: string;
  /** Such as `xts-plain64` or `cbc-essiv:sha256`. */
  cipherMode: string;
  /** Of PBKDF2 and of the anti-forensic splitter. */
  hash: string;
  /** In bytes from the header's start. */
  payloadOffset: number;
  /** Of the master key. */
  keyBytes: number;
  /** PBKDF2 of the master key, which tells the right one. */
  digest: Buffer;
  digestSalt: Buffer;
  digestIterations: number;
  uuid: string;
  slots: LuksKeySlot[];
}

/** Whether `head` begins as a LUKS container does, of that version. */
export function hasLuksMagic(head: Buffer, version: number): boolean {
  return (
    head.length >= At.version + 2 &&
    head.subarray(0, MAGIC.length).equals(MAGIC) &&
    head.readUInt16BE(At.version) === version
  );
}

/** Bytes that the key material of one slot takes: whole sectors. */
export function keyMaterialBytes({ keyBytes }: { keyBytes: number }, { stripes }: { stripes: number }): number {
  return Math.ceil((keyBytes * stripes) / LUKS_SECTOR) * LUKS_SECTOR;
}

/**
 * Decodes and checks the first 592 bytes of a container. ImageError `corrupt` or `unsupported`, in QEMU's words.
 */
export function decodeLuksHeader(bytes: Buffer): LuksHeader {
  if (!bytes.subarray(0, MAGIC.length).equals(MAGIC)) throw corrupt('Volume is not in LUKS format');
  const version = bytes.readUInt16BE(At.version);
  if (version !== 1) throw new ImageError('unsupported', `LUKS version ${version} is not supported`);
  const header: LuksHeader = {
    cipherName: name(bytes, At.cipherName, 'cipher name'),
    cipherMode: name(bytes, At.cipherMode, 'cipher mode'),
    hash: name(bytes, At.hash, 'hash spec'),
    payloadOffset: bytes.readUInt32BE(At.payload) * LUKS_SECTOR,
    keyBytes: bytes.readUInt32BE(At.keyBytes),
    digest: Buffer.from(bytes.subarray(At.digest, At.digest + LUKS_DIGEST_BYTES)),
    digestSalt: Buffer.from(bytes.subarray(At.digestSalt, At.digestSalt + LUKS_SALT_BYTES)),
    digestIterations: bytes.readUInt32BE(At.digestIterations),
    uuid: text(bytes.subarray(At.uuid, At.uuid + UUID_BYTES)),
    slots: [],
  };
  if (header.payloadOffset < LUKS_HEADER_AREA) throw corrupt('LUKS payload is overlapping with the header');
  if (header.digestIterations === 0) throw corrupt('LUKS key iteration count is zero');
  for (let index = 0; index < LUKS_SLOTS; index += 1) header.slots.push(decodeSlot(bytes, index));
  checkPlaces(header);
  return header;
}

function decodeSlot(bytes: Buffer, index: number): LuksKeySlot {
  const at = At.slots + index * SLOT_BYTES;
  const state = bytes.readUInt32BE(at + SlotAt.state);
  const slot: LuksKeySlot = {
    active: state === SlotState.enabled,
    iterations: bytes.readUInt32BE(at + SlotAt.iterations),
    salt: Buffer.from(bytes.subarray(at + SlotAt.salt, at + SlotAt.salt + LUKS_SALT_BYTES)),
    keyOffset: bytes.readUInt32BE(at + SlotAt.keyMaterial) * LUKS_SECTOR,
    stripes: bytes.readUInt32BE(at + SlotAt.stripes),
  };
  if (slot.stripes !== LUKS_STRIPES) {
    throw corrupt(`Keyslot ${index} is corrupted (stripes ${slot.stripes | 0} != ${LUKS_STRIPES})`);
  }
  if (slot.keyOffset < LUKS_HEADER_AREA) throw corrupt(`Keyslot ${index} is overlapping with the LUKS header`);
  if (!slot.active && state !== SlotState.disabled) {
    throw corrupt(`Keyslot ${index} state (active/disable) is corrupted`);
  }
  if (slot.active && slot.iterations === 0) throw corrupt(`Keyslot ${index} iteration count is zero`);
  return slot;
}

/** Key material lies before the payload, and no slot's in another's. */
function checkPlaces(header: LuksHeader): void {
  const ends = header.slots.map((slot) => slot.keyOffset + keyMaterialBytes(header, slot));
  for (const [index, slot] of header.slots.entries()) {
    if (ends[index] > header.payloadOffset) {
      throw corrupt(`Keyslot ${index} is overlapping with the encrypted payload`);
    }
    for (let other = index + 1; other < header.slots.length; other += 1) {
      if (slot.keyOffset < ends[other] && header.slots[other].keyOffset < ends[index]) {
        throw corrupt(`Keyslots ${index} and ${other} are overlapping in the header`);
      }
    }
  }
}

/** The 592 bytes of a header that `decodeLuksHeader` would accept. */
export function encodeLuksHeader(header: LuksHeader): Buffer {
  const bytes = Buffer.alloc(LUKS_HEADER_BYTES);
  MAGIC.copy(bytes);
  bytes.writeUInt16BE(1, At.version);
  bytes.write(header.cipherName, At.cipherName, NAME_BYTES - 1, 'latin1');
  bytes.write(header.cipherMode, At.cipherMode, NAME_BYTES - 1, 'latin1');
  bytes.write(header.hash, At.hash, NAME_BYTES - 1, 'latin1');
  bytes.writeUInt32BE(header.payloadOffset / LUKS_SECTOR, At.payload);
  bytes.writeUInt32BE(header.keyBytes, At.keyBytes);
  header.digest.copy(bytes, At.digest, 0, LUKS_DIGEST_BYTES);
  header.digestSalt.copy(bytes, At.digestSalt, 0, LUKS_SALT_BYTES);
  bytes.writeUInt32BE(header.digestIterations, At.digestIterations);
  bytes.write(header.uuid, At.uuid, UUID_BYTES, 'latin1');
  for (const [index, slot] of header.slots.entries()) encodeSlot(bytes, At.slots + index * SLOT_BYTES, slot);
  return bytes;
}

function encodeSlot(bytes: Buffer, at: number, slot: LuksKeySlot): void {
  bytes.writeUInt32BE(slot.active ? SlotState.enabled : SlotState.disabled, at + SlotAt.state);
  bytes.writeUInt32BE(slot.iterations, at + SlotAt.iterations);
  slot.salt.copy(bytes, at + SlotAt.salt, 0, LUKS_SALT_BYTES);
  bytes.writeUInt32BE(slot.keyOffset / LUKS_SECTOR, at + SlotAt.keyMaterial);
  bytes.writeUInt32BE(slot.stripes, at + SlotAt.stripes);
}

function name(bytes: Buffer, at: number, what: string): string {
  const field = bytes.subarray(at, at + NAME_BYTES);
  if (!field.includes(0)) throw corrupt(`LUKS header ${what} is not NUL terminated`);
  return text(field);
}

function text(field: Buffer): string {
  const end = field.indexOf(0);
  return field.toString('latin1', 0, end < 0 ? field.length : end);
}

function corrupt(message: string): ImageError {
  return new ImageError('corrupt', message);
}
