import {
  BAT_ENTRY_LENGTH,
  type BatGeometry,
  encodeEntry,
  PayloadState,
  payloadIndex,
} from '../../layouts/vhdx/index.ts';
import { Block } from '../../sources/block-table.ts';
import { decodePayload, type EntryContext } from '../../sources/vhdx/tables.ts';
import type { WritableShape } from '../blocks/tables.ts';

/**
 * A page is a sector of the log, or a chunk where that is less: between its entries there is none of a sector bitmap.
 */
const MAX_PAGE_ENTRIES = 512;

/** The BAT of a disk without parent, for writing. `geometry` may change with the disk's size. */
export function batShape(context: EntryContext & { geometry: BatGeometry }): WritableShape {
  const { regions } = context;
  const { chunkRatio } = context.geometry;
  const pageEntries = Math.min(chunkRatio, MAX_PAGE_ENTRIES);
  return {
    get blocks() {
      return context.geometry.blocks;
    },
    pageEntries,
    entrySize: BAT_ENTRY_LENGTH,
    shortLastPage: !fitsRegion(context.geometry, regions.bat.length),
    pageOffset: (page) => regions.bat.offset + payloadIndex(page * pageEntries, chunkRatio) * BAT_ENTRY_LENGTH,
    decode: (bytes, index) => decodePayload(bytes, index * BAT_ENTRY_LENGTH, context),
    encode(bytes, index, state) {
      const at = index * BAT_ENTRY_LENGTH;
      if (state >= 0) encodeEntry(bytes, at, PayloadState.fullyPresent, state);
      else encodeEntry(bytes, at, state === Block.zero ? PayloadState.zero : PayloadState.notPresent);
    },
  };
}

/** Whether all pages of a BAT for that geometry lie in its region, as whole pages. */
export function fitsRegion({ chunkRatio, blocks }: BatGeometry, regionLength: number): boolean {
  const pageEntries = Math.min(chunkRatio, MAX_PAGE_ENTRIES);
  const lastPage = Math.max(0, Math.ceil(blocks / pageEntries) - 1);
  return (payloadIndex(lastPage * pageEntries, chunkRatio) + pageEntries) * BAT_ENTRY_LENGTH <= regionLength;
}
