import { isAllocated, MAP_ENTRY, VDI_BLOCK, type VdiHeader } from '../../layouts/vdi.ts';
import { Block } from '../block-table.ts';
import type { TableShape } from '../cached-tables.ts';

/** 64 KiB of block map, that is 16 GiB of the disk. */
const PAGE_ENTRIES = 16 * 1024;

/** The block map as a table in pages. There is no layer below: what has no block reads as zeros. */
export function vdiShape({ blocks, mapOffset, dataOffset }: VdiHeader): TableShape {
  return {
    blocks,
    pageEntries: PAGE_ENTRIES,
    entrySize: MAP_ENTRY,
    shortLastPage: true,
    pageOffset: (page) => mapOffset + page * PAGE_ENTRIES * MAP_ENTRY,
    decode(bytes, index) {
      const entry = bytes.readUInt32LE(index * MAP_ENTRY);
      // A number above all blocks is no lie: QEMU gives such where earlier ones were lost.
      return isAllocated(entry) ? dataOffset + entry * VDI_BLOCK : Block.zero;
    },
  };
}
