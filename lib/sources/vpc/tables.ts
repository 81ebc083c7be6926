import { ensure } from '../../core/errors.ts';
import { isZero } from '../../core/pool.ts';
import { tracePoint } from '../../core/trace.ts';
import { BAT_ENTRY_SIZE, BAT_UNUSED, DiskType, SECTOR, tableBytes } from '../../layouts/vpc/index.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';
import { Block } from '../block-table.ts';
import type { TableShape } from '../cached-tables.ts';
import type { DynamicHead } from './head.ts';

/** Entries that are read at once: 64 KiB. */
const PAGE_ENTRIES = 16 * 1024;
const SCAN_BYTES = 1024 * 1024;
const UNUSED = Buffer.alloc(64 * 1024, 0xff);

const traceScan = tracePoint('vpc_scan_table');

/** The block allocation table, in pages of `pageEntries`. */
export function tableShape(head: DynamicHead, pageEntries = PAGE_ENTRIES): TableShape {
  const { dynamic, size } = head;
  const pageBytes = pageEntries * BAT_ENTRY_SIZE;
  return {
    blocks: Math.ceil(size / dynamic.blockSize),
    pageEntries,
    entrySize: BAT_ENTRY_SIZE,
    pageOffset: (page) => dynamic.tableOffset + page * pageBytes,
    decode: entryDecoder(head),
  };
}

/** Decodes entries: the host offset of a block's data, behind its bitmap. `corrupt` where metadata lie there. */
export function entryDecoder({
  footer,
  dynamic: { blockSize },
  bitmapBytes,
  metadata,
}: DynamicHead): TableShape['decode'] {
  // Only a differencing disk has something beneath it.
  const unused = footer.diskType === DiskType.differencing ? Block.unallocated : Block.zero;
  const behind = Math.max(...metadata.map(({ end }) => end));
  return (bytes, index, block) => {
    const entry = bytes.readUInt32BE(index * BAT_ENTRY_SIZE);
    if (entry === BAT_UNUSED) return unused;
    const start = entry * SECTOR;
    const data = start + bitmapBytes;
    if (start < behind) {
      const clear = metadata.every((part) => data + blockSize <= part.start || start >= part.end);
      ensure(clear, `Block ${block} lies in the image's own metadata`, { offset: start });
    }
    return data;
  };
}

/**
 * The first sector behind all blocks, of which the table may have more than the disk. As QEMU does when it opens an
 * image, this refuses one whose file ends before that.
 */
export async function endOfBlocks(head: DynamicHead, storage: Storage): Promise<number> {
  const { dynamic, bitmapBytes } = head;
  const tableEnd = dynamic.tableOffset + tableBytes(dynamic.tableEntries);
  const fileEnd = Math.ceil(storage.size / SECTOR) * SECTOR;
  ensure(tableEnd <= fileEnd, TRUNCATED);
  const last = await lastEntry(storage, dynamic.tableOffset, dynamic.tableEntries * BAT_ENTRY_SIZE);
  const end = last < 0 ? tableEnd : Math.max(tableEnd, last * SECTOR + bitmapBytes + dynamic.blockSize);
  if (traceScan.enabled) traceScan.emit({ file: storage.name, entries: dynamic.tableEntries, end });
  ensure(end <= fileEnd, TRUNCATED);
  return Math.ceil(end / SECTOR) * SECTOR;
}

const TRUNCATED = 'block-vpc: free_data_block_offset points after the end of file. The image has been truncated.';

/** The largest entry in use, or -1. */
async function lastEntry(storage: Storage, offset: number, length: number): Promise<number> {
  const buffer = Buffer.allocUnsafe(Math.min(SCAN_BYTES, length));
  let last = -1;
  for (let done = 0; done < length; done += buffer.length) {
    const part = buffer.subarray(0, Math.min(buffer.length, length - done));
    await readPadded(storage, offset + done, part);
    for (let at = 0; at < part.length; at += UNUSED.length) {
      last = Math.max(last, lastOf(part.subarray(at, at + UNUSED.length)));
    }
  }
  return last;
}

/** Most of a large table is all the same, and passed over at the speed of memory. */
function lastOf(entries: Buffer): number {
  if (entries.compare(UNUSED, 0, entries.length) === 0) return -1;
  if (isZero(entries)) return 0;
  let last = -1;
  for (let at = 0; at < entries.length; at += BAT_ENTRY_SIZE) {
    const entry = entries.readUInt32BE(at);
    if (entry > last && entry !== BAT_UNUSED) last = entry;
  }
  return last;
}
