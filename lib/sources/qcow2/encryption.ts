import { readU64BE } from '../../core/binary.ts';
import { ensure } from '../../core/errors.ts';
import { CryptMethod, ExtensionType, findExtension } from '../../layouts/qcow2/index.ts';
import type { InfoValue } from '../source.ts';
import type { Qcow2SourceOptions } from './source.ts';

/**
 * LUKS1 header fields that `info` shows (LUKS On-Disk Format Specification 1.2.3, "phdr" and "key slot"): big-endian
 * numbers, names in zero-padded fields of 32 bytes (the UUID's of 40).
 */
const LUKS_MAGIC = Buffer.from('LUKS\xba\xbe', 'latin1');
const At = {
  version: 6,
  cipherName: 8,
  cipherMode: 40,
  hash: 72,
  payload: 104,
  keyBytes: 108,
  masterKeyIterations: 164,
  uuid: 168,
  slots: 208,
} as const;
const NAME_BYTES = 32;
const UUID_BYTES = 40;
const SLOTS = 8;
const SLOT_BYTES = 48;
const Slot = { active: 0, iterations: 4, keyMaterial: 40, stripes: 44 } as const;
const SLOT_ENABLED = 0x00ac71f3;
const LUKS_HEADER_BYTES = 592;
const SECTOR = 512;

/** `encrypt` as QAPI's ImageInfoSpecificQCow2Encryption has it; null for a plain image. */
export async function describeEncryption(image: Qcow2SourceOptions): Promise<{ [key: string]: InfoValue } | null> {
  switch (image.header.cryptMethod) {
    case CryptMethod.aes:
      return { format: 'aes' };
    case CryptMethod.luks:
      return { format: 'luks', ...(await describeLuks(image)) };
    default:
      return null;
  }
}

async function describeLuks({ storage, tail }: Qcow2SourceOptions): Promise<{ [key: string]: InfoValue }> {
  // "Full disk encryption header pointer": where the LUKS header lies, and its length.
  const pointer = findExtension(tail.extensions, ExtensionType.encryption);
  ensure(pointer !== null && pointer.length === 16, 'CRYPTO header extension is missing or has a wrong size');
  const offset = readU64BE(pointer, 0, 'The encryption header offset');
  const length = readU64BE(pointer, 8, 'The encryption header length');
  ensure(length >= LUKS_HEADER_BYTES && offset + LUKS_HEADER_BYTES <= storage.size, 'The LUKS header is cut off', {
    offset,
  });
  const header = Buffer.alloc(LUKS_HEADER_BYTES);
  await storage.read(offset, header);
  ensure(header.subarray(0, LUKS_MAGIC.length).equals(LUKS_MAGIC), 'Volume is not in LUKS format', { offset });
  ensure(header.readUInt16BE(At.version) === 1, 'LUKS version is not supported', { offset });
  return luksInfo(header);
}

function luksInfo(header: Buffer): { [key: string]: InfoValue } {
  const mode = text(header, At.cipherMode, NAME_BYTES);
  const dash = mode.indexOf('-');
  const [ivgen, ivgenHash] = (dash < 0 ? '' : mode.slice(dash + 1)).split(':');
  const cipher = text(header, At.cipherName, NAME_BYTES);
  const cipherMode = dash < 0 ? mode : mode.slice(0, dash);
  const info: { [key: string]: InfoValue } = {
    'cipher-alg': `${cipher}-${keyBits(header, cipherMode)}`,
    'cipher-mode': cipherMode,
    'ivgen-alg': ivgen,
  };
  if (ivgenHash !== undefined) info['ivgen-hash-alg'] = ivgenHash;
  info['hash-alg'] = text(header, At.hash, NAME_BYTES);
  info['payload-offset'] = header.readUInt32BE(At.payload) * SECTOR;
  info['master-key-iters'] = header.readUInt32BE(At.masterKeyIterations);
  info['uuid'] = text(header, At.uuid, UUID_BYTES);
  info['slots'] = Array.from({ length: SLOTS }, (_, index) => slotInfo(header, At.slots + index * SLOT_BYTES));
  return info;
}

/** XTS takes two keys, so its key is twice as long as the cipher's name says. */
function keyBits(header: Buffer, cipherMode: string): number {
  const bits = header.readUInt32BE(At.keyBytes) * 8;
  return cipherMode === 'xts' ? bits / 2 : bits;
}

function slotInfo(header: Buffer, at: number): InfoValue {
  const active = header.readUInt32BE(at + Slot.active) === SLOT_ENABLED;
  const info: { [key: string]: InfoValue } = { active };
  if (active) {
    info['iters'] = header.readUInt32BE(at + Slot.iterations);
    info['stripes'] = header.readUInt32BE(at + Slot.stripes);
  }
  info['key-offset'] = header.readUInt32BE(at + Slot.keyMaterial) * SECTOR;
  return info;
}

function text(header: Buffer, at: number, length: number): string {
  const bytes = header.subarray(at, at + length);
  const zero = bytes.indexOf(0);
  return bytes.toString('latin1', 0, zero < 0 ? length : zero);
}
