import { BAT_ENTRY_SIZE, BAT_UNUSED, SECTOR, tableBytes } from '../../layouts/vpc/index.ts';
import type { DynamicHead } from '../../sources/vpc/head.ts';
import { tableShape } from '../../sources/vpc/tables.ts';
import type { Storage } from '../../storage/storage.ts';
import type { WritableShape } from '../blocks/tables.ts';

/** A sector of entries: a table takes whole sectors, so that none of its pages holds anything else. */
const PAGE_ENTRIES = SECTOR / BAT_ENTRY_SIZE;
const FILL_BYTES = 64 * 1024;

/**
 * The block allocation table, to be changed. `current` is asked each time: a new image's head may become another one.
 */
export function writableShape(current: () => DynamicHead): WritableShape {
  let head = current();
  let shape = tableShape(head, PAGE_ENTRIES);
  const now = () => {
    if (head !== current()) {
      head = current();
      shape = tableShape(head, PAGE_ENTRIES);
    }
    return shape;
  };
  return {
    get blocks() {
      return now().blocks;
    },
    pageEntries: PAGE_ENTRIES,
    entrySize: BAT_ENTRY_SIZE,
    pageOffset: (page) => now().pageOffset(page),
    decode: (bytes, index, block) => now().decode(bytes, index, block),
    encode(bytes, index, state) {
      const entry = state < 0 ? BAT_UNUSED : (state - head.bitmapBytes) / SECTOR;
      bytes.writeUInt32BE(entry, index * BAT_ENTRY_SIZE);
    },
  };
}

/**
 * Fills the table's sectors for entries [from, to) with "not there", but for a sector that `from` shares with others.
 */
export async function fillTable(storage: Storage, tableOffset: number, from: number, to: number): Promise<void> {
  const unused = Buffer.alloc(FILL_BYTES, 0xff);
  const end = tableOffset + tableBytes(to);
  for (let at = tableOffset + tableBytes(from); at < end; at += unused.length) {
    await storage.write(at, unused.subarray(0, Math.min(unused.length, end - at)));
  }
}

/** Copies a table of so many entries to another place. */
export async function copyTable(storage: Storage, from: number, to: number, entries: number): Promise<void> {
  const table = Buffer.alloc(tableBytes(entries));
  await storage.read(from, table);
  await storage.write(to, table);
}
