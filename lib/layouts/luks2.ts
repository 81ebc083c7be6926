/**
 * LUKS2's binary header (LUKS2 On-Disk Format Specification 1.1.1, section 2.1): 4096 bytes, big-endian, with JSON behind
 * it up to `headerBytes`; and the same again, the secondary header, at `headerBytes`. Key slots' areas and the payload
 * follow; places are in bytes.
 */
import { readU64BE } from '../core/binary.ts';
import { ImageError } from '../core/errors.ts';

export const LUKS2_BINARY_BYTES = 4096;
/** Sizes that a header with its JSON may have, and with that the places where the secondary one may lie. */
export const LUKS2_HEADER_SIZES: readonly number[] = [16, 32, 64, 128, 256, 512, 1024, 2048, 4096].map((k) => k * 1024);

const MAGIC = Buffer.from('LUKS\xba\xbe', 'latin1');
const SECONDARY_MAGIC = Buffer.from('SKUL\xba\xbe', 'latin1');
const At = {
  version: 6,
  headerBytes: 8,
  sequence: 16,
  checksumName: 72,
  uuid: 168,
  headerOffset: 256,
  checksum: 448,
} as const;
const CHECKSUM_NAME_BYTES = 32;
const UUID_BYTES = 40;
const CHECKSUM_BYTES = 64;

export interface Luks2BinaryHeader {
  /** With its JSON. */
  headerBytes: number;
  /** Counts the header's changes: of two that are sound the greater is the newer one. */
  sequence: number;
  /** Of the checksum: `sha256`. */
  checksumName: string;
  /** As many bytes as that hash has count. */
  checksum: Buffer;
  uuid: string;
}

/**
 * Decodes a header that was found at `offset`; an ImageError `corrupt` for anything else. Its checksum, which is that
 * of `clearChecksum`'s result and the JSON, is the caller's to look at.
 */
export function decodeLuks2Binary(bytes: Buffer, offset: number): Luks2BinaryHeader {
  const magic = offset === 0 ? MAGIC : SECONDARY_MAGIC;
  if (!bytes.subarray(0, magic.length).equals(magic)) throw corrupt('There is no LUKS2 header');
  if (bytes.readUInt16BE(At.version) !== 2) throw corrupt('The LUKS header has another version than 2');
  const headerBytes = readU64BE(bytes, At.headerBytes, 'The size of the LUKS2 header');
  if (!LUKS2_HEADER_SIZES.includes(headerBytes)) throw corrupt(`A LUKS2 header can't have ${headerBytes} bytes`);
  if (readU64BE(bytes, At.headerOffset, 'The place of the LUKS2 header') !== offset) {
    throw corrupt('The LUKS2 header says that it lies elsewhere');
  }
  return {
    headerBytes,
    sequence: readU64BE(bytes, At.sequence, 'The sequence number of the LUKS2 header'),
    checksumName: text(bytes, At.checksumName, CHECKSUM_NAME_BYTES),
    checksum: Buffer.from(bytes.subarray(At.checksum, At.checksum + CHECKSUM_BYTES)),
    uuid: text(bytes, At.uuid, UUID_BYTES),
  };
}

/** A copy of header and JSON as the checksum sees them: with zeros in its own place. */
export function clearChecksum(header: Buffer): Buffer {
  const copy = Buffer.from(header);
  copy.fill(0, At.checksum, At.checksum + CHECKSUM_BYTES);
  return copy;
}

/** The JSON behind a binary header. */
export function luks2Json(header: Buffer): string {
  const area = header.subarray(LUKS2_BINARY_BYTES);
  const end = area.indexOf(0);
  return area.toString('utf8', 0, end < 0 ? area.length : end);
}

function text(bytes: Buffer, at: number, length: number): string {
  const field = bytes.subarray(at, at + length);
  const end = field.indexOf(0);
  return field.toString('utf8', 0, end < 0 ? length : end);
}

function corrupt(message: string): ImageError {
  return new ImageError('corrupt', message);
}
