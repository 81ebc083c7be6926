import { createHash, pbkdf2Sync, randomBytes } from 'node:crypto';
import { sectorCipher } from '../../lib/crypto/sector-cipher.ts';
import { splitKey } from '../../lib/crypto/splitter.ts';

/** JSON that a test may change at will. */
// biome-ignore lint/suspicious/noExplicitAny: tests reach into it by name
export type Metadata = any;

export const PASSPHRASE = 'open sesame';
const HEADER = 16 * 1024;
const BINARY = 4096;
const AREA = 2 * HEADER;
export const PAYLOAD = 512 * 1024;
const CHECKSUM = { at: 448, length: 64 } as const;
const KEY_BYTES = 32;

export interface Luks2Shape {
  sectorSize?: number;
  /** Changes the metadata before they are written. */
  change?: (metadata: Metadata) => void;
}

/** A small LUKS2 container of AES-128 in XTS mode that holds `disk`, with next to no iterations. */
export function luks2Image(disk: Buffer, { sectorSize = 512, change = () => {} }: Luks2Shape = {}): Buffer {
  const key = randomBytes(KEY_BYTES);
  const [salt, digestSalt] = [randomBytes(32), randomBytes(32)];
  const image = Buffer.alloc(PAYLOAD + disk.length);
  const material = splitKey('sha256', key, 4000);
  const slotKey = pbkdf2Sync(PASSPHRASE, salt, 10, KEY_BYTES, 'sha256');
  xts(slotKey, 512).encrypt(material, 0);
  material.copy(image, AREA);
  const payload = Buffer.from(disk);
  xts(key, sectorSize).encrypt(payload, 0);
  payload.copy(image, PAYLOAD);
  const metadata = metadataOf({ sectorSize, salt, digestSalt, digest: pbkdf2Sync(key, digestSalt, 10, 32, 'sha256') });
  change(metadata);
  const json = JSON.stringify(metadata);
  for (const offset of [0, HEADER]) writeHeader(image, offset, json);
  return image;
}

function xts(key: Buffer, sectorSize: number) {
  const how = { cipher: 'aes-128', mode: 'xts', ivGenerator: 'plain64', ivHash: null } as const;
  return sectorCipher({ ...how, key, sectorSize });
}

function metadataOf(of: { sectorSize: number; salt: Buffer; digestSalt: Buffer; digest: Buffer }): Metadata {
  const encryption = 'aes-xts-plain64';
  return {
    keyslots: {
      0: {
        type: 'luks2',
        key_size: KEY_BYTES,
        af: { type: 'luks1', stripes: 4000, hash: 'sha256' },
        area: { type: 'raw', offset: String(AREA), size: '131072', encryption, key_size: KEY_BYTES },
        kdf: { type: 'pbkdf2', hash: 'sha256', iterations: 10, salt: of.salt.toString('base64') },
      },
    },
    tokens: {},
    segments: {
      0: {
        ...{ type: 'crypt', offset: String(PAYLOAD), size: 'dynamic', iv_tweak: '0' },
        ...{ encryption, sector_size: of.sectorSize },
      },
    },
    digests: {
      0: {
        ...{ type: 'pbkdf2', keyslots: ['0'], segments: ['0'], hash: 'sha256', iterations: 10 },
        ...{ salt: of.digestSalt.toString('base64'), digest: of.digest.toString('base64') },
      },
    },
    config: { json_size: '12288', keyslots_size: String(PAYLOAD - AREA) },
  };
}

/** Writes one copy of the header, with a sound checksum. */
export function writeHeader(image: Buffer, offset: number, json: string, sequence = 1): void {
  const header = Buffer.alloc(HEADER);
  header.write(offset === 0 ? 'LUKS\xba\xbe' : 'SKUL\xba\xbe', 'latin1');
  header.writeUInt16BE(2, 6);
  header.writeBigUInt64BE(BigInt(HEADER), 8);
  header.writeBigUInt64BE(BigInt(sequence), 16);
  header.write('sha256', 72);
  header.write('01234567-89ab-cdef-0123-456789abcdef', 168);
  header.writeBigUInt64BE(BigInt(offset), 256);
  header.write(json, BINARY);
  header.copy(image, offset);
  sealHeader(image, offset);
}

/** Makes the checksum of a header that was changed right again. */
export function sealHeader(image: Buffer, offset: number): void {
  const header = image.subarray(offset, offset + HEADER);
  header.fill(0, CHECKSUM.at, CHECKSUM.at + CHECKSUM.length);
  createHash('sha256').update(header).digest().copy(header, CHECKSUM.at);
}

export const SECONDARY = HEADER;
