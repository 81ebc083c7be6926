import { BAT_ENTRY_SIZE, BAT_UNUSED, encodeDynamicHeader, SECTOR } from '../../layouts/vpc/index.ts';
import type { ExtentPlan } from '../target.ts';
import { endOfTable, HEADER_OFFSET, newDynamicHead, TABLE_OFFSET } from './new-head.ts';
import type { DiskShape } from './options.ts';

/** What comes before the blocks of a dynamic disk that is written in one pass. */
export interface DynamicStreamHead {
  size: number;
  blockSize: number;
  bitmapBytes: number;
  /** Copy of the footer, dynamic header, table. */
  bytes: Buffer;
  footer: Buffer;
  isThere(block: number): boolean;
}

/**
 * Lays a dynamic disk out by its plan: blocks with data follow each other in guest order. Memory: the table, 4 MiB at
 * the most.
 */
export async function streamHead(shape: DiskShape, plan: ExtentPlan): Promise<DynamicStreamHead> {
  const { dynamic, bitmapBytes, footerBytes: footer, size } = newDynamicHead(shape);
  const { blockSize, tableEntries } = dynamic;
  const start = endOfTable(TABLE_OFFSET, tableEntries);
  const bytes = Buffer.alloc(start, 0xff);
  footer.copy(bytes);
  encodeDynamicHeader(dynamic).copy(bytes, HEADER_OFFSET);
  let [next, host] = [0, start];
  for await (const extents of plan()) {
    for (const { offset, length, kind } of extents) {
      if (kind !== 'data') continue;
      const last = Math.floor((offset + length - 1) / blockSize);
      for (next = Math.max(next, Math.floor(offset / blockSize)); next <= last; next += 1) {
        bytes.writeUInt32BE(host / SECTOR, TABLE_OFFSET + next * BAT_ENTRY_SIZE);
        host += bitmapBytes + blockSize;
      }
    }
  }
  const isThere = (block: number) => bytes.readUInt32BE(TABLE_OFFSET + block * BAT_ENTRY_SIZE) !== BAT_UNUSED;
  return { size, blockSize, bitmapBytes, bytes, footer, isThere };
}
