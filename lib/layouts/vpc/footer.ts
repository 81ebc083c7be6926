import { ensure } from '../../core/errors.ts';
import { type DiskGeometry, geometrySectors, MAX_CHS_SECTORS } from './geometry.ts';

/**
 * "Hard Disk Footer Format" of Microsoft's Virtual Hard Disk Image Format Specification 1.0; all numbers big-endian.
 */
export const FOOTER_SIZE = 512;
export const SECTOR = 512;
/** What Virtual PC before 2004 wrote. */
export const SHORT_FOOTER_SIZE = 511;

const COOKIE = Buffer.from('conectix', 'latin1');

const At = {
  cookie: 0,
  features: 8,
  version: 12,
  dataOffset: 16,
  timestamp: 24,
  creator: 28,
  creatorVersion: 32,
  creatorHost: 36,
  originalSize: 40,
  currentSize: 48,
  cylinders: 56,
  heads: 58,
  sectorsPerTrack: 59,
  diskType: 60,
  checksum: 64,
  uniqueId: 68,
} as const;

/** Field "Disk Type". */
export const DiskType = { fixed: 2, dynamic: 3, differencing: 4 } as const;

/** Bit 1 of "Features" is reserved, and always set. */
const FEATURES_RESERVED = 2;
const FORMAT_VERSION = 0x0001_0000;
/** Field "Data Offset" of a fixed disk: all ones. */
const NO_DATA_OFFSET = 0xffff_ffff_ffff_ffffn;

/**
 * Creators whose field "Current Size" is the disk's size. With all others (Virtual PC, and QEMU under its usual name)
 * the geometry says how large the disk is, whatever the field has.
 */
const SIZE_CREATORS: readonly string[] = [
  'win ', // Hyper-V
  'd2v ', // Disk2vhd
  'tap\0', // XenServer
  'CTXS', // XenConverter
  'qem2', // QEMU, with force_size
];

/** The creators that QEMU signs with: `force_size` makes the second one. */
export const QEMU_CREATOR = { chs: 'qemu', currentSize: 'qem2' } as const;
/** QEMU's version and host system, as its images have them: readers know the creator by these. */
const CREATOR_VERSION = 0x0005_0003;
const CREATOR_HOST = 'Wi2k';

/** Seconds of the epoch 2000-01-01T00:00:00Z, from which timestamps count. */
const EPOCH_SECONDS = 946_684_800;

/** No disk has more sectors: 2040 GiB. */
export const MAX_SECTORS = 0xff00_0000;

/** Where the size comes from: runtime option `force_size_calc`. */
export type SizeCalculation = 'chs' | 'current_size';

/** A footer, or the copy of one at the start of the file. Sizes and offsets in bytes. */
export interface VhdFooter {
  /** Where the dynamic header lies; infinite where that can't be in any file (a fixed disk has all ones). */
  dataOffset: number;
  /** Four bytes, as Latin-1. */
  creator: string;
  /** As the field has it; see `readWide`. */
  currentSize: number;
  geometry: DiskGeometry;
  /** One of `DiskType`, or something else. */
  diskType: number;
  /** 16 bytes. */
  uniqueId: Buffer;
}

/** What a new image's footer says. */
export interface NewFooter {
  diskType: number;
  size: number;
  geometry: DiskGeometry;
  creator: string;
  /** Milliseconds since 1970. */
  now: number;
  uniqueId: Buffer;
  /** Absent for a fixed disk. */
  dataOffset?: number;
}

/** Whether the bytes begin as a footer does. */
export function hasCookie(bytes: Buffer): boolean {
  return bytes.length >= COOKIE.length && bytes.compare(COOKIE, 0, COOKIE.length, 0, COOKIE.length) === 0;
}

/** Decodes 512 bytes that have the cookie; `corrupt` where the checksum is wrong. */
export function decodeFooter(bytes: Buffer): VhdFooter {
  ensure(checksum(bytes, At.checksum) === bytes.readUInt32BE(At.checksum), 'Incorrect header checksum');
  return {
    dataOffset: readWide(bytes, At.dataOffset),
    creator: bytes.toString('latin1', At.creator, At.creator + 4),
    currentSize: readWide(bytes, At.currentSize),
    geometry: {
      cylinders: bytes.readUInt16BE(At.cylinders),
      heads: bytes[At.heads],
      sectorsPerTrack: bytes[At.sectorsPerTrack],
    },
    diskType: bytes.readUInt32BE(At.diskType),
    uniqueId: Buffer.from(bytes.subarray(At.uniqueId, At.uniqueId + 16)),
  };
}

export function encodeFooter(footer: NewFooter): Buffer {
  const bytes = Buffer.alloc(FOOTER_SIZE);
  COOKIE.copy(bytes, At.cookie);
  bytes.writeUInt32BE(FEATURES_RESERVED, At.features);
  bytes.writeUInt32BE(FORMAT_VERSION, At.version);
  bytes.writeBigUInt64BE(footer.dataOffset === undefined ? NO_DATA_OFFSET : BigInt(footer.dataOffset), At.dataOffset);
  bytes.writeUInt32BE(Math.max(0, Math.floor(footer.now / 1000) - EPOCH_SECONDS) >>> 0, At.timestamp);
  bytes.write(footer.creator, At.creator, 'latin1');
  bytes.writeUInt32BE(CREATOR_VERSION, At.creatorVersion);
  bytes.write(CREATOR_HOST, At.creatorHost, 'latin1');
  bytes.writeBigUInt64BE(BigInt(footer.size), At.originalSize);
  bytes.writeBigUInt64BE(BigInt(footer.size), At.currentSize);
  bytes.writeUInt16BE(footer.geometry.cylinders, At.cylinders);
  bytes[At.heads] = footer.geometry.heads;
  bytes[At.sectorsPerTrack] = footer.geometry.sectorsPerTrack;
  bytes.writeUInt32BE(footer.diskType, At.diskType);
  footer.uniqueId.copy(bytes, At.uniqueId, 0, 16);
  bytes.writeUInt32BE(checksum(bytes, At.checksum), At.checksum);
  return bytes;
}

/**
 * The disk's size in bytes, whole sectors. `calculation` null: as the creator demands. A geometry at its limit says
 * nothing, so the size is in the field then, whatever was asked for.
 */
export function diskSize({ geometry, creator, currentSize }: VhdFooter, calculation: SizeCalculation | null): number {
  const sectors = geometrySectors(geometry);
  const byField = calculation === null ? SIZE_CREATORS.includes(creator) : calculation === 'current_size';
  return (byField || sectors === MAX_CHS_SECTORS ? Math.floor(currentSize / SECTOR) : sectors) * SECTOR;
}

/** The one's complement of the sum of all bytes, those of the checksum itself left out. */
export function checksum(bytes: Buffer, at: number): number {
  let sum = 0;
  for (const byte of bytes) sum += byte;
  for (let index = at; index < at + 4; index += 1) sum -= bytes[index];
  return ~sum >>> 0;
}

/**
 * 64 bits that may hold anything: inexact from 2^53 on, where no file reaches, and infinite from 2^63 on, as QEMU
 * tells it apart.
 */
export function readWide(bytes: Buffer, at: number): number {
  const high = bytes.readUInt32BE(at);
  return high >= 0x8000_0000 ? Number.POSITIVE_INFINITY : high * 0x1_0000_0000 + bytes.readUInt32BE(at + 4);
}
