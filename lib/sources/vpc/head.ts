import { alignUp } from '../../core/binary.ts';
import { ensure, ImageError } from '../../core/errors.ts';
import {
  bitmapBytes,
  DiskType,
  DYNAMIC_HEADER_SIZE,
  type DynamicHeader,
  decodeDynamicHeader,
  decodeFooter,
  diskSize,
  FOOTER_SIZE,
  hasCookie,
  MAX_SECTORS,
  SECTOR,
  type SizeCalculation,
  tableBytes,
  type VhdFooter,
} from '../../layouts/vpc/index.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';

/** What every VHD says of itself. */
interface VpcCommon {
  footer: VhdFooter;
  /** The footer's 512 bytes, as they are in the file. */
  footerBytes: Buffer;
  /** Guest bytes; whole sectors. */
  size: number;
}

/** The bytes of the disk, and the footer. */
export interface FixedHead extends VpcCommon {
  dynamic: null;
  /** Where the footer lies: no guest byte is there or behind. */
  footerOffset: number;
}

/** A copy of the footer, the dynamic header, the block allocation table, blocks, and the footer. */
export interface DynamicHead extends VpcCommon {
  dynamic: DynamicHeader;
  /** Bytes of the sector bitmap before each block. */
  bitmapBytes: number;
  /** Parts of the file where no block can lie: [start, end). */
  metadata: readonly { start: number; end: number }[];
}

export type VpcHead = FixedHead | DynamicHead;

/**
 * Reads footer and dynamic header and checks them. As with QEMU, what begins with a footer is a dynamic disk, and the
 * copy there is the one that counts; else a fixed disk's footer is at the end.
 * @param calculation where the size comes from; null: as the creator demands
 */
export async function readHead(storage: Storage, calculation: SizeCalculation | null): Promise<VpcHead> {
  ensure(storage.size > 0, 'File too small for a VHD header');
  const start = Buffer.alloc(FOOTER_SIZE);
  await readPadded(storage, 0, start);
  if (!hasCookie(start)) return readFixed(storage, calculation);
  const footer = decodeFooter(start);
  // A fixed disk of no size is its footer alone.
  if (footer.diskType === DiskType.fixed) return readFixed(storage, calculation);
  const size = checkedSize(footer, calculation, storage);
  const dynamic = await readDynamicHeader(storage, footer);
  ensure(size <= dynamic.tableEntries * dynamic.blockSize, 'Page table too small');
  ensure(dynamic.tableOffset < Number.POSITIVE_INFINITY, 'Error reading pagetable');
  return {
    footer,
    footerBytes: start,
    size,
    dynamic,
    bitmapBytes: bitmapBytes(dynamic.blockSize),
    metadata: metadataOf(footer, dynamic),
  };
}

async function readFixed(storage: Storage, calculation: SizeCalculation | null): Promise<FixedHead> {
  // Virtual PC wrote footers of 511 bytes, so that the file's last sector is not quite one.
  const footerOffset = alignUp(storage.size, SECTOR) - FOOTER_SIZE;
  const footerBytes = Buffer.alloc(FOOTER_SIZE);
  await readPadded(storage, footerOffset, footerBytes);
  return { ...decodeFixed(footerBytes, calculation, storage), footerOffset };
}

/** Decodes the footer of a fixed disk. Throws where it is none. */
export function decodeFixed(
  footerBytes: Buffer,
  calculation: SizeCalculation | null,
  { name }: Pick<Storage, 'name'>,
): Omit<FixedHead, 'footerOffset'> {
  ensure(hasCookie(footerBytes), 'invalid VPC image');
  const footer = decodeFooter(footerBytes);
  // The start of a dynamic disk is gone, and with it where its blocks are.
  ensure(footer.diskType === DiskType.fixed, 'invalid VPC image');
  return { footer, footerBytes, size: checkedSize(footer, calculation, { name }), dynamic: null };
}

function checkedSize(footer: VhdFooter, calculation: SizeCalculation | null, { name }: Pick<Storage, 'name'>): number {
  const size = diskSize(footer, calculation);
  if (size <= MAX_SECTORS * SECTOR) return size;
  throw new ImageError('unsupported', `Could not open '${name}': File too large`, { code: 'EFBIG' });
}

async function readDynamicHeader(storage: Storage, { dataOffset }: VhdFooter): Promise<DynamicHeader> {
  ensure(dataOffset < Number.POSITIVE_INFINITY, 'Error reading dynamic VHD header');
  const bytes = Buffer.alloc(DYNAMIC_HEADER_SIZE);
  await readPadded(storage, dataOffset, bytes);
  return decodeDynamicHeader(bytes);
}

/** Parts of the file where no block can lie: the copy of the footer, the dynamic header, the table. */
export function metadataOf({ dataOffset }: VhdFooter, { tableOffset, tableEntries }: DynamicHeader) {
  return [
    { start: 0, end: FOOTER_SIZE },
    { start: dataOffset, end: dataOffset + DYNAMIC_HEADER_SIZE },
    { start: tableOffset, end: tableOffset + tableBytes(tableEntries) },
  ];
}
