import { ImageError } from '../../core/errors.ts';
import {
  ENTRY_BYTES,
  isClusterPlace,
  isTablePlace,
  l1EntriesFor,
  type QedHeader,
  qedGeometry,
  readEntry,
  UNALLOCATED,
  ZERO,
} from '../../layouts/qed/index.ts';
import type { Storage } from '../../storage/storage.ts';
import { Block } from '../block-table.ts';
import type { TableShape } from '../cached-tables.ts';

export interface QedShapeOptions {
  storage: Storage;
  /** Its size may change. */
  header: QedHeader;
  /** The L1 table, as it is at each moment. */
  l1(): Buffer;
}

/** L2 tables may be as long as 1 GiB: they are read and written in pages of this many entries. */
const MAX_PAGE_ENTRIES = 8192;

/** How a QED image's L2 tables are cut into pages. */
export function qedShape({ storage, header, l1 }: QedShapeOptions): TableShape & { readonly pagesPerTable: number } {
  const { tableEntries } = qedGeometry(header);
  const pageEntries = Math.min(tableEntries, MAX_PAGE_ENTRIES);
  const pagesPerTable = tableEntries / pageEntries;
  return {
    pagesPerTable,
    pageEntries,
    entrySize: ENTRY_BYTES,
    get blocks() {
      return l1EntriesFor(header.size, qedGeometry(header)) * tableEntries;
    },
    pageOffset(page) {
      const index = Math.floor(page / pagesPerTable);
      const table = readEntry(l1(), index);
      if (table === UNALLOCATED) return -1;
      if (!isTablePlace(header, table, storage.size)) {
        throw corrupt(storage, `L2 table offset ${hex(table)} is invalid (L1 index ${index})`, table);
      }
      return table + (page % pagesPerTable) * pageEntries * ENTRY_BYTES;
    },
    decode(bytes, index, block) {
      const entry = readEntry(bytes, index);
      if (entry === UNALLOCATED) return Block.unallocated;
      if (entry === ZERO) return Block.zero;
      if (!isClusterPlace(header, entry, storage.size)) {
        throw corrupt(storage, `Data cluster offset ${hex(entry)} is invalid (guest cluster ${block})`, entry);
      }
      return entry;
    },
  };
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

function corrupt(storage: Storage, message: string, offset: number): ImageError {
  return new ImageError('corrupt', message, { file: storage.name, format: 'qed', offset });
}
