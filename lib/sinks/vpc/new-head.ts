import { randomBytes } from 'node:crypto';
import {
  BLOCK_SIZE,
  bitmapBytes,
  DiskType,
  DYNAMIC_HEADER_SIZE,
  type DynamicHeader,
  decodeFooter,
  encodeFooter,
  FOOTER_SIZE,
  tableBytes,
} from '../../layouts/vpc/index.ts';
import { type DynamicHead, metadataOf } from '../../sources/vpc/head.ts';
import type { DiskShape } from './options.ts';

/** Where the dynamic header of a new image lies, and its table. */
export const HEADER_OFFSET = FOOTER_SIZE;
export const TABLE_OFFSET = HEADER_OFFSET + DYNAMIC_HEADER_SIZE;

/** The footer of a new image. */
export function newFooter(shape: DiskShape, diskType: number): Buffer {
  return encodeFooter({
    ...shape,
    diskType,
    now: Date.now(),
    uniqueId: newUniqueId(),
    ...(diskType === DiskType.fixed ? {} : { dataOffset: HEADER_OFFSET }),
  });
}

/** A random UUID of version 4 (RFC 4122). */
function newUniqueId(): Buffer {
  const id = randomBytes(16);
  id[6] = (id[6] & 0x0f) | 0x40;
  id[8] = (id[8] & 0x3f) | 0x80;
  return id;
}

export function entriesFor(size: number): number {
  return Math.ceil(size / BLOCK_SIZE);
}

/** The head of a new dynamic disk. @param room entries that the table has place for */
export function newDynamicHead(shape: DiskShape, tableOffset = TABLE_OFFSET, room?: number): DynamicHead {
  const footerBytes = newFooter(shape, DiskType.dynamic);
  const footer = decodeFooter(footerBytes);
  const tableEntries = entriesFor(shape.size);
  const dynamic: DynamicHeader = {
    tableOffset,
    tableEntries,
    blockSize: BLOCK_SIZE,
    parentUniqueId: Buffer.alloc(16),
    parentName: '',
    parentLocators: [],
  };
  return {
    footer,
    footerBytes,
    size: shape.size,
    dynamic,
    bitmapBytes: bitmapBytes(BLOCK_SIZE),
    metadata: metadataOf(footer, { ...dynamic, tableEntries: room ?? tableEntries }),
  };
}

/** Where blocks begin behind a table of so many entries. */
export function endOfTable(tableOffset: number, entries: number): number {
  return tableOffset + tableBytes(entries);
}
