import { ensure } from '../../core/errors.ts';
import { checksum, readWide, SECTOR } from './footer.ts';

/** "Dynamic Disk Header Format" of the VHD specification; all numbers big-endian. */
export const DYNAMIC_HEADER_SIZE = 1024;

const COOKIE = Buffer.from('cxsparse', 'latin1');

const At = {
  cookie: 0,
  dataOffset: 8,
  tableOffset: 16,
  version: 24,
  maxTableEntries: 28,
  blockSize: 32,
  checksum: 36,
  parentUniqueId: 40,
  parentName: 64,
  locators: 576,
} as const;

const PARENT_NAME_BYTES = 512;
const LOCATORS = 8;
const LOCATOR_SIZE = 24;
const LOCATOR_AT = { platform: 0, space: 4, length: 8, offset: 16 } as const;

const HEADER_VERSION = 0x0001_0000;
const NO_DATA_OFFSET = 0xffff_ffff_ffff_ffffn;

/** Default block size: 2 MiB. */
export const BLOCK_SIZE = 2 * 1024 * 1024;
/** Largest number of entries whose table QEMU takes: its length must fit into 31 bits. */
const MAX_TABLE_ENTRIES = 0x1fff_ffff;

/** Bytes of an entry of the block allocation table. */
export const BAT_ENTRY_SIZE = 4;
/** An entry of a block that is not there. */
export const BAT_UNUSED = 0xffff_ffff;

/** "Parent Locator Entry": where a platform's name of the parent lies in the file. */
export interface ParentLocator {
  /** Four letters, such as `W2ru`. */
  platform: string;
  length: number;
  /** Infinite where it can't be in any file. */
  offset: number;
}

export interface DynamicHeader {
  /** Where the block allocation table begins; infinite where it can't be in any file. */
  tableOffset: number;
  /** Entries that the table has. */
  tableEntries: number;
  /** Bytes; a power of two, at least a sector. */
  blockSize: number;
  /** 16 bytes. */
  parentUniqueId: Buffer;
  /** UTF-16, as it is in the file. */
  parentName: string;
  parentLocators: readonly ParentLocator[];
}

/** Decodes 1024 bytes. The checksum is not looked at, as QEMU does not: what matters is checked field by field. */
export function decodeDynamicHeader(bytes: Buffer): DynamicHeader {
  ensure(bytes.compare(COOKIE, 0, COOKIE.length, 0, COOKIE.length) === 0, 'Invalid header magic');
  const blockSize = bytes.readUInt32BE(At.blockSize);
  ensure(blockSize >= SECTOR && Number.isInteger(Math.log2(blockSize)), `Invalid block size ${blockSize}`);
  const tableEntries = bytes.readUInt32BE(At.maxTableEntries);
  ensure(tableEntries <= MAX_TABLE_ENTRIES, `Max Table Entries too large (${tableEntries | 0})`);
  const tableOffset = readWide(bytes, At.tableOffset);
  return {
    tableOffset,
    tableEntries,
    blockSize,
    parentUniqueId: Buffer.from(bytes.subarray(At.parentUniqueId, At.parentUniqueId + 16)),
    parentName: decodeUtf16BE(bytes.subarray(At.parentName, At.parentName + PARENT_NAME_BYTES)),
    parentLocators: Array.from({ length: LOCATORS }, (_, index) => decodeLocator(bytes, index)),
  };
}

function decodeLocator(bytes: Buffer, index: number): ParentLocator {
  const at = At.locators + index * LOCATOR_SIZE;
  return {
    platform: bytes.toString('latin1', at + LOCATOR_AT.platform, at + LOCATOR_AT.space),
    length: bytes.readUInt32BE(at + LOCATOR_AT.length),
    offset: readWide(bytes, at + LOCATOR_AT.offset),
  };
}

function decodeUtf16BE(bytes: Buffer): string {
  return Buffer.from(bytes).swap16().toString('utf16le');
}

/** The header of a disk without a parent. */
export function encodeDynamicHeader(header: Pick<DynamicHeader, 'tableOffset' | 'tableEntries' | 'blockSize'>): Buffer {
  const bytes = Buffer.alloc(DYNAMIC_HEADER_SIZE);
  COOKIE.copy(bytes, At.cookie);
  bytes.writeBigUInt64BE(NO_DATA_OFFSET, At.dataOffset);
  bytes.writeBigUInt64BE(BigInt(header.tableOffset), At.tableOffset);
  bytes.writeUInt32BE(HEADER_VERSION, At.version);
  bytes.writeUInt32BE(header.tableEntries, At.maxTableEntries);
  bytes.writeUInt32BE(header.blockSize, At.blockSize);
  bytes.writeUInt32BE(checksum(bytes, At.checksum), At.checksum);
  return bytes;
}
