import { readU64LE } from '../core/binary.ts';
import { ensure, ImageError } from '../core/errors.ts';

/**
 * The growing redolog of Bochs, versions 1 and 2 (Bochs' iodev/hdimage/hdimage.h, `redolog_header_t`): a header, a catalog
 * with a number for each extent of the disk, and extents in the order in which they were first written, each
 * after a bitmap of its sectors. All little-endian.
 */
export const BOCHS_HEADER_BYTES = 512;
export const SECTOR = 512;
/** A catalog entry of an extent that is not there. */
export const NO_EXTENT = 0xffff_ffff;

const MAGIC = 'Bochs Virtual HD Image';
const TYPE = 'Redolog';
const SUBTYPE = 'Growing';
/** The texts' fields: offset and bytes, filled up with zeros. */
const MAGIC_FIELD = [0, 32] as const;
const TYPE_FIELD = [32, 16] as const;
const SUBTYPE_FIELD = [48, 16] as const;

const VERSION_1 = 0x1_0000;
const VERSION_2 = 0x2_0000;
/** Where the disk's size stands: version 2 has a timestamp before it. */
const SIZE_AT_V1 = 84;
const SIZE_AT_V2 = 88;

/** Bounds as QEMU sets them: a catalog of 4 MiB, extents of 8 MiB. */
const MAX_CATALOG_ENTRIES = 0x10_0000;
const MAX_EXTENT_BYTES = 0x80_0000;

export interface BochsHeader {
  version: 1 | 2;
  /** Guest bytes: whole sectors. */
  size: number;
  catalogOffset: number;
  catalogEntries: number;
  /** Guest bytes of an extent: a power of two, at least a sector. */
  extentSize: number;
  /** Bytes in the file of an extent's bitmap, which lies before its sectors: whole sectors. */
  bitmapSpace: number;
  /** Where the extents begin. */
  dataOffset: number;
}

/** Whether `head` begins a growing redolog of a known version. */
export function isBochs(head: Buffer): boolean {
  if (head.length < BOCHS_HEADER_BYTES) return false;
  const texts = text(head, MAGIC_FIELD) === MAGIC && text(head, TYPE_FIELD) === TYPE;
  if (!texts || text(head, SUBTYPE_FIELD) !== SUBTYPE) return false;
  const version = head.readUInt32LE(64);
  return version === VERSION_1 || version === VERSION_2;
}

/** Decodes and checks the header, in QEMU's words. Throws an ImageError with the field's offset. */
export function decodeBochsHeader(head: Buffer): BochsHeader {
  if (!isBochs(head)) throw new ImageError('corrupt', 'Image not in Bochs format', { offset: 0 });
  const version = head.readUInt32LE(64) === VERSION_1 ? 1 : 2;
  const catalogOffset = head.readUInt32LE(68);
  const catalogEntries = head.readUInt32LE(72);
  const extentSize = head.readUInt32LE(80);
  ensure(catalogEntries <= MAX_CATALOG_ENTRIES, 'Catalog size is too large', { offset: 72 });
  checkExtentSize(extentSize);
  const size = readSize(head, version);
  ensure(catalogEntries >= Math.ceil(size / extentSize), 'Catalog size is too small for this disk size', {
    offset: 72,
  });
  const bitmapSpace = Math.ceil(head.readUInt32LE(76) / SECTOR) * SECTOR;
  ensure(bitmapSpace >= bitmapBytes(extentSize), 'Bitmap size is too small for the extent size', { offset: 76 });
  const dataOffset = catalogOffset + catalogEntries * 4;
  return { version, size, catalogOffset, catalogEntries, extentSize, bitmapSpace, dataOffset };
}

/** Bytes that the bits of an extent's sectors take. */
export function bitmapBytes(extentSize: number): number {
  return Math.ceil(extentSize / SECTOR / 8);
}

/** Where the bitmap of the extent with that number lies; its sectors follow after `bitmapSpace` bytes. */
export function extentOffset({ dataOffset, bitmapSpace, extentSize }: BochsHeader, number: number): number {
  return dataOffset + number * (bitmapSpace + extentSize);
}

function readSize(head: Buffer, version: 1 | 2): number {
  const at = version === 1 ? SIZE_AT_V1 : SIZE_AT_V2;
  // No catalog is large enough for a disk that a number can't hold.
  if (head.readUInt32LE(at + 4) >= 2 ** 21) {
    throw new ImageError('corrupt', 'Catalog size is too small for this disk size', { offset: at });
  }
  return Math.floor(readU64LE(head, at, 'The disk size') / SECTOR) * SECTOR;
}

function checkExtentSize(extentSize: number): void {
  const where = { offset: 80 };
  ensure(extentSize >= SECTOR, 'Extent size must be at least 512', where);
  ensure(Number.isInteger(Math.log2(extentSize)), `Extent size ${extentSize} is not a power of two`, where);
  ensure(extentSize <= MAX_EXTENT_BYTES, `Extent size ${extentSize} is too large`, where);
}

function text(head: Buffer, [offset, length]: readonly [number, number]): string {
  const bytes = head.toString('latin1', offset, offset + length);
  const end = bytes.indexOf('\0');
  return end < 0 ? bytes : bytes.slice(0, end);
}
