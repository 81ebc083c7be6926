import { readU64LE, writeU64LE } from '../../core/binary.ts';
import { crc32c } from '../../core/crc32c.ts';
import { ensure, ImageError } from '../../core/errors.ts';
import {
  ALIGNMENT,
  CREATOR_AT,
  CREATOR_LENGTH,
  FILE_IDENTIFIER_AT,
  FILE_SIGNATURE,
  FORMAT_VERSION,
  HEADER_LENGTH,
  HEADER_SECTION,
  HEADERS_AT,
  LOG_VERSION,
  MAX_FILE_SIZE,
} from './constants.ts';
import { NO_GUID, readGuid, writeGuid } from './guid.ts';

/** Section 2.2.2. The sequence number is a whole 64-bit one; GUIDs are text. */
export interface VhdxHeader {
  sequence: bigint;
  fileWriteGuid: string;
  dataWriteGuid: string;
  /** `NO_GUID`: there is nothing in the log. */
  logGuid: string;
  logLength: number;
  logOffset: number;
}

const SIGNATURE = 'head';

/** Where the fields lie. */
const At = {
  signature: 0,
  checksum: 4,
  sequence: 8,
  fileWriteGuid: 16,
  dataWriteGuid: 32,
  logGuid: 48,
  logVersion: 64,
  version: 66,
  logLength: 68,
  logOffset: 72,
} as const;

/** Whether the file's first bytes are those of a VHDX file (section 2.2.1). */
export function hasVhdxSignature(head: Buffer): boolean {
  return head.subarray(FILE_IDENTIFIER_AT, FILE_SIGNATURE.length).equals(FILE_SIGNATURE);
}

/** The file type identifier: the signature, and who made the file. */
export function encodeFileIdentifier(creator: string): Buffer {
  const bytes = Buffer.alloc(CREATOR_AT + CREATOR_LENGTH);
  FILE_SIGNATURE.copy(bytes);
  bytes.write(creator, CREATOR_AT, CREATOR_LENGTH, 'utf16le');
  return bytes;
}

/** The checksum over a structure whose checksum field counts as zero. */
export function checksumOf(bytes: Buffer, fieldAt: number): number {
  const before = crc32c(bytes.subarray(0, fieldAt));
  return crc32c(bytes.subarray(fieldAt + 4), crc32c(NO_CHECKSUM, before));
}

const NO_CHECKSUM = Buffer.alloc(4);

/** Signature and checksum are right. */
function isValid(bytes: Buffer): boolean {
  if (bytes.length < HEADER_LENGTH || bytes.toString('latin1', 0, 4) !== SIGNATURE) return false;
  return bytes.readUInt32LE(At.checksum) === checksumOf(bytes.subarray(0, HEADER_LENGTH), At.checksum);
}

/**
 * The current one of both headers, and which of them it is: the only valid one, or the one with the higher sequence
 * number. `corrupt` where there is none.
 */
export function currentHeader(copies: readonly Buffer[]): { header: VhdxHeader; slot: number } {
  let slot = -1;
  let highest = -1n;
  copies.forEach((bytes, index) => {
    if (!isValid(bytes)) return;
    const sequence = bytes.readBigUInt64LE(At.sequence);
    // Of equal ones the first: an implementation that writes both at once makes them the same.
    if (sequence > highest) [slot, highest] = [index, sequence];
  });
  ensure(slot >= 0, 'No valid VHDX header found', { offset: HEADERS_AT[0] });
  const header = decodeHeader(copies[slot], HEADERS_AT[slot]);
  return { header, slot };
}

function decodeHeader(bytes: Buffer, offset: number): VhdxHeader {
  const version = bytes.readUInt16LE(At.version);
  if (version !== FORMAT_VERSION)
    throw new ImageError('unsupported', `Unsupported VHDX version ${version}`, { offset });
  const header: VhdxHeader = {
    sequence: bytes.readBigUInt64LE(At.sequence),
    fileWriteGuid: readGuid(bytes, At.fileWriteGuid),
    dataWriteGuid: readGuid(bytes, At.dataWriteGuid),
    logGuid: readGuid(bytes, At.logGuid),
    logLength: bytes.readUInt32LE(At.logLength),
    logOffset: readU64LE(bytes, At.logOffset, 'The log offset'),
  };
  const logVersion = bytes.readUInt16LE(At.logVersion);
  if (header.logGuid !== NO_GUID && logVersion !== LOG_VERSION) {
    throw new ImageError('unsupported', `Unsupported VHDX log version ${logVersion}`, { offset });
  }
  const { logLength, logOffset } = header;
  ensure(
    logLength % ALIGNMENT === 0 && logOffset % ALIGNMENT === 0 && logOffset <= MAX_FILE_SIZE,
    'The log is not aligned',
    { offset },
  );
  ensure(logLength === 0 || logOffset >= HEADER_SECTION, 'The log overlaps the header section', { offset });
  ensure(header.logGuid === NO_GUID || logLength > 0, 'The log is in use, and empty', { offset });
  return header;
}

/** The header's bytes, with their checksum. */
export function encodeHeader(header: VhdxHeader): Buffer {
  const bytes = Buffer.alloc(HEADER_LENGTH);
  bytes.write(SIGNATURE, At.signature, 'latin1');
  bytes.writeBigUInt64LE(header.sequence, At.sequence);
  writeGuid(bytes, At.fileWriteGuid, header.fileWriteGuid);
  writeGuid(bytes, At.dataWriteGuid, header.dataWriteGuid);
  writeGuid(bytes, At.logGuid, header.logGuid);
  bytes.writeUInt16LE(LOG_VERSION, At.logVersion);
  bytes.writeUInt16LE(FORMAT_VERSION, At.version);
  bytes.writeUInt32LE(header.logLength, At.logLength);
  writeU64LE(bytes, At.logOffset, header.logOffset);
  bytes.writeUInt32LE(checksumOf(bytes, At.checksum), At.checksum);
  return bytes;
}
