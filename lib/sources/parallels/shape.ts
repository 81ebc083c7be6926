import { ImageError } from '../../core/errors.ts';
import {
  BAT_ENTRY_BYTES,
  HEADER_BYTES,
  type ParallelsHeader,
  parallelsGeometry,
  readBatEntry,
  SECTOR,
  UNALLOCATED,
} from '../../layouts/parallels/index.ts';
import type { Storage } from '../../storage/storage.ts';
import { Block } from '../block-table.ts';
import type { TableShape } from '../cached-tables.ts';

/** The BAT is one array; this much of it is read and written at once. */
const PAGE_ENTRIES = 16384;

/**
 * How a Parallels image's BAT is cut into pages. What it has no entries for, or the file ends before, is unallocated.
 */
export function parallelsShape(storage: Storage, header: ParallelsHeader): TableShape {
  const geometry = parallelsGeometry(header);
  const { clusterSize, batEnd } = geometry;
  return {
    blocks: Math.ceil((header.sectors * SECTOR) / clusterSize),
    pageEntries: PAGE_ENTRIES,
    entrySize: BAT_ENTRY_BYTES,
    shortLastPage: true,
    pageOffset(page) {
      const offset = HEADER_BYTES + page * PAGE_ENTRIES * BAT_ENTRY_BYTES;
      return offset < batEnd && offset < storage.size ? offset : -1;
    },
    decode(bytes, index, block) {
      if (block >= header.entries) return Block.unallocated;
      const host = readBatEntry(bytes, index, geometry);
      if (host === UNALLOCATED) return Block.unallocated;
      if (host >= batEnd && host <= Number.MAX_SAFE_INTEGER - clusterSize) return host;
      throw new ImageError('corrupt', `Cluster offset 0x${host.toString(16)} is invalid (guest cluster ${block})`, {
        file: storage.name,
        format: 'parallels',
        offset: HEADER_BYTES + block * BAT_ENTRY_BYTES,
      });
    },
  };
}
