import { alignUp } from '../../core/binary.ts';
import {
  ALIGNMENT,
  BAT_ENTRY_LENGTH,
  type BatGeometry,
  encodeEntry,
  encodeFileIdentifier,
  encodeHeader,
  encodeMetadata,
  encodeRegions,
  FILE_IDENTIFIER_AT,
  HEADERS_AT,
  MIB,
  PayloadState,
  REGION_TABLES_AT,
} from '../../layouts/vhdx/index.ts';
import type { VhdxHead } from '../../sources/vhdx/head.ts';
import type { Storage } from '../../storage/storage.ts';

const CREATOR = 'imgpipe';
const PIECE_ENTRIES = MIB / BAT_ENTRY_LENGTH;

/** Bytes of the region that the BAT needs. */
export function batLength({ entries }: BatGeometry): number {
  return Math.max(ALIGNMENT, alignUp(entries * BAT_ENTRY_LENGTH, ALIGNMENT));
}

/** What the entries of a new BAT say. */
export interface NewBlocks {
  /** Where the first block of a fixed disk lies; the others follow. Null for a dynamic disk. */
  host: number | null;
  /** A dynamic disk's blocks are said to be zeros. */
  zero: boolean;
}

/** Writes the BAT of a new file, whose place reads as zeros. */
export async function writeNewBat(storage: Storage, head: VhdxHead, blocks: NewBlocks): Promise<void> {
  if (blocks.host === null && !blocks.zero) return;
  const { entries } = head.geometry;
  for (let first = 0; first < entries; first += PIECE_ENTRIES) {
    const count = Math.min(PIECE_ENTRIES, entries - first);
    await storage.write(head.regions.bat.offset + first * BAT_ENTRY_LENGTH, batPiece(head, blocks, first, count));
  }
}

function batPiece({ geometry, parameters }: VhdxHead, { host }: NewBlocks, first: number, count: number): Buffer {
  const bytes = Buffer.alloc(count * BAT_ENTRY_LENGTH);
  const stride = geometry.chunkRatio + 1;
  for (let index = first; index < first + count; index += 1) {
    // The last entry of each chunk is its sector bitmap's, which a disk without parent has not.
    if (index % stride === geometry.chunkRatio) continue;
    const at = (index - first) * BAT_ENTRY_LENGTH;
    const block = index - Math.floor(index / stride);
    if (host === null) encodeEntry(bytes, at, PayloadState.zero);
    else encodeEntry(bytes, at, PayloadState.fullyPresent, host + block * parameters.blockSize);
  }
  return bytes;
}

/** Writes all other structures of a new file; last of all, what makes it one. */
export async function completeNew({ storage, header, regions, parameters, geometry }: VhdxHead): Promise<void> {
  await storage.write(regions.metadata.offset, encodeMetadata(parameters));
  const bat = { ...regions.bat, length: batLength(geometry) };
  for (const at of REGION_TABLES_AT) await storage.write(at, encodeRegions({ ...regions, bat }));
  await storage.write(HEADERS_AT[0], encodeHeader(header));
  await storage.write(HEADERS_AT[1], encodeHeader({ ...header, sequence: header.sequence + 1n }));
  await storage.flush();
  await storage.write(FILE_IDENTIFIER_AT, encodeFileIdentifier(CREATOR));
  await storage.flush();
}
