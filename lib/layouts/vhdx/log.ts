import { writeU64LE } from '../../core/binary.ts';
import { LOG_SECTOR, MAX_FILE_SIZE } from './constants.ts';
import { readGuid, writeGuid } from './guid.ts';
import { checksumOf } from './header.ts';

/** The header of a log entry (section 2.3.1.1), as far as it alone can be checked. */
export interface LogEntryHeader {
  checksum: number;
  /** Bytes of the whole entry. */
  length: number;
  /** Where, in the log, the sequence begins that this entry ends. */
  tail: number;
  sequence: bigint;
  descriptors: number;
  logGuid: string;
  flushedFileOffset: number;
  lastFileOffset: number;
}

/** What a descriptor says: bytes of the file to clear, or a sector of it to write, whose both ends it holds. */
export type LogDescriptor =
  | { kind: 'zero'; offset: number; length: number }
  | { kind: 'data'; offset: number; length: number; leading: Buffer; trailing: Buffer };

/** A sector of the file, as it shall be. */
export interface SectorUpdate {
  offset: number;
  bytes: Buffer;
}

const SIGNATURE = 'loge';
const At = {
  signature: 0,
  checksum: 4,
  length: 8,
  tail: 12,
  sequence: 16,
  descriptors: 24,
  logGuid: 32,
  flushedFileOffset: 48,
  lastFileOffset: 56,
} as const;
export const LOG_CHECKSUM_AT = At.checksum;
const ENTRY_HEADER_LENGTH = 64;

const DESCRIPTOR_LENGTH = 32;
const DATA_DESCRIPTOR = 'desc';
const ZERO_DESCRIPTOR = 'zero';
/** Within a descriptor: a zero descriptor has its length where a data descriptor has the leading bytes. */
const DescriptorAt = { signature: 0, trailing: 4, leading: 8, offset: 16, sequence: 24 } as const;

const DATA_SECTOR = 'data';
/** Within a data sector. */
const SectorAt = { signature: 0, sequenceHigh: 4, data: 8, sequenceLow: LOG_SECTOR - 4 } as const;
const LEADING_LENGTH = 8;
const TRAILING_LENGTH = 4;

/** Descriptors that fit into the entry's first sector, and into those behind it, which have no header. */
export const FIRST_DESCRIPTORS = (LOG_SECTOR - ENTRY_HEADER_LENGTH) / DESCRIPTOR_LENGTH;
export const SECTOR_DESCRIPTORS = LOG_SECTOR / DESCRIPTOR_LENGTH;

/** Sectors that so many descriptors take, with the header. */
export function descriptorSectors(count: number): number {
  return Math.ceil((ENTRY_HEADER_LENGTH + count * DESCRIPTOR_LENGTH) / LOG_SECTOR);
}

/** Where, in the entry, a descriptor lies. */
export function descriptorAt(index: number): number {
  return ENTRY_HEADER_LENGTH + index * DESCRIPTOR_LENGTH;
}

/** Decodes the first sector of an entry; null for what is none: in a log, that is no error. */
export function decodeEntryHeader(sector: Buffer, logLength: number): LogEntryHeader | null {
  if (sector.toString('latin1', 0, 4) !== SIGNATURE) return null;
  const sizes = [At.flushedFileOffset, At.lastFileOffset].map((at) => sizeAt(sector, at));
  const header: LogEntryHeader = {
    checksum: sector.readUInt32LE(At.checksum),
    length: sector.readUInt32LE(At.length),
    tail: sector.readUInt32LE(At.tail),
    sequence: sector.readBigUInt64LE(At.sequence),
    descriptors: sector.readUInt32LE(At.descriptors),
    logGuid: readGuid(sector, At.logGuid),
    flushedFileOffset: sizes[0],
    lastFileOffset: sizes[1],
  };
  const { length, tail, sequence, descriptors } = header;
  const fits =
    length > 0 &&
    length <= logLength &&
    length % LOG_SECTOR === 0 &&
    descriptorSectors(descriptors) * LOG_SECTOR <= length &&
    tail < logLength &&
    tail % LOG_SECTOR === 0 &&
    sequence > 0n &&
    sizes.every((size) => size >= 0);
  return fits ? header : null;
}

/** A size that a file can have, or -1. */
function sizeAt(sector: Buffer, at: number): number {
  const size = sector.readBigUInt64LE(at);
  return size <= MAX_FILE_SIZE ? Number(size) : -1;
}

/** Decodes a descriptor of the entry with that sequence number; null where it is none. */
export function decodeDescriptor(bytes: Buffer, at: number, sequence: bigint): LogDescriptor | null {
  if (bytes.readBigUInt64LE(at + DescriptorAt.sequence) !== sequence) return null;
  const signature = bytes.toString('latin1', at, at + 4);
  const offset = sizeAt(bytes, at + DescriptorAt.offset);
  if (offset < 0 || offset % LOG_SECTOR !== 0) return null;
  if (signature === DATA_DESCRIPTOR) {
    const [leading, trailing] = [at + DescriptorAt.leading, at + DescriptorAt.trailing];
    return {
      kind: 'data',
      offset,
      length: LOG_SECTOR,
      leading: Buffer.from(bytes.subarray(leading, leading + LEADING_LENGTH)),
      trailing: Buffer.from(bytes.subarray(trailing, trailing + TRAILING_LENGTH)),
    };
  }
  const length = sizeAt(bytes, at + DescriptorAt.leading);
  const isZero = signature === ZERO_DESCRIPTOR && length >= 0 && length % LOG_SECTOR === 0;
  return isZero && offset + length <= MAX_FILE_SIZE ? { kind: 'zero', offset, length } : null;
}

/** Whether the sector is a data sector of the entry with that sequence number. */
export function isDataSector(sector: Buffer, sequence: bigint): boolean {
  if (sector.toString('latin1', 0, 4) !== DATA_SECTOR) return false;
  const high = BigInt(sector.readUInt32LE(SectorAt.sequenceHigh));
  return ((high << 32n) | BigInt(sector.readUInt32LE(SectorAt.sequenceLow))) === sequence;
}

/** The bytes that a data sector stands for: its ends come from the descriptor. */
export function restoreSector(sector: Buffer, { leading, trailing }: { leading: Buffer; trailing: Buffer }): Buffer {
  return Buffer.concat([leading, sector.subarray(SectorAt.data, SectorAt.sequenceLow), trailing]);
}

export interface LogEntry {
  logGuid: string;
  sequence: bigint;
  /** The entry's own place in the log: it is a sequence of its own. */
  place: number;
  /** The file is that long, for sure. */
  fileSize: number;
  updates: readonly SectorUpdate[];
}

/** Bytes that an entry with so many updates takes. */
export function logEntryLength(updates: number): number {
  return (descriptorSectors(updates) + updates) * LOG_SECTOR;
}

/** The bytes of an entry that is a sequence of its own, with their checksum. */
export function encodeLogEntry({ logGuid, sequence, place, fileSize, updates }: LogEntry): Buffer {
  const entry = Buffer.alloc(logEntryLength(updates.length));
  entry.write(SIGNATURE, At.signature, 'latin1');
  entry.writeUInt32LE(entry.length, At.length);
  entry.writeUInt32LE(place, At.tail);
  entry.writeBigUInt64LE(sequence, At.sequence);
  entry.writeUInt32LE(updates.length, At.descriptors);
  writeGuid(entry, At.logGuid, logGuid);
  writeU64LE(entry, At.flushedFileOffset, fileSize);
  writeU64LE(entry, At.lastFileOffset, fileSize);
  const firstSector = descriptorSectors(updates.length) * LOG_SECTOR;
  updates.forEach((update, index) => {
    encodeUpdate(entry, { at: descriptorAt(index), sectorAt: firstSector + index * LOG_SECTOR, sequence, update });
  });
  entry.writeUInt32LE(checksumOf(entry, At.checksum), At.checksum);
  return entry;
}

interface UpdatePlace {
  at: number;
  sectorAt: number;
  sequence: bigint;
  update: SectorUpdate;
}

function encodeUpdate(entry: Buffer, { at, sectorAt, sequence, update: { offset, bytes } }: UpdatePlace): void {
  entry.write(DATA_DESCRIPTOR, at + DescriptorAt.signature, 'latin1');
  bytes.copy(entry, at + DescriptorAt.leading, 0, LEADING_LENGTH);
  bytes.copy(entry, at + DescriptorAt.trailing, LOG_SECTOR - TRAILING_LENGTH);
  writeU64LE(entry, at + DescriptorAt.offset, offset);
  entry.writeBigUInt64LE(sequence, at + DescriptorAt.sequence);
  bytes.copy(entry, sectorAt + SectorAt.data, SectorAt.data, SectorAt.sequenceLow);
  entry.write(DATA_SECTOR, sectorAt + SectorAt.signature, 'latin1');
  entry.writeUInt32LE(Number(sequence >> 32n), sectorAt + SectorAt.sequenceHigh);
  entry.writeUInt32LE(Number(sequence & 0xffffffffn), sectorAt + SectorAt.sequenceLow);
}
