import { alignUp } from '../../core/binary.ts';
import { tracePoint } from '../../core/trace.ts';
import {
  BAT_ENTRY_LENGTH,
  entryState,
  HEADER_SECTION,
  NO_GUID,
  PayloadState,
  payloadIndex,
} from '../../layouts/vhdx/index.ts';
import { inContext } from '../../sources/context.ts';
import { readHead, type VhdxHead } from '../../sources/vhdx/head.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';
import { type CheckReport, type CheckRequest, cleanReport } from '../checks.ts';
import { checkLog, replayLog } from './replay.ts';

const traceCheck = tracePoint('vhdx_check');

/** What is read of the BAT at once. */
const PIECE_ENTRIES = 128 * 1024;
/** Bits 20 and up of an entry are the offset. */
const OFFSET_MASK = 0xffff_ffff_fff0_0000n;
const SECTOR = 512;
const OVERFLOW = 2n ** 63n;

/**
 * Checks a VHDX image as QEMU does: the blocks that the BAT calls present lie in the file, and not where structures are.
 * To repair is to replay the log. What is wrong with a block can't be told, and stays.
 */
export async function checkVhdx({ storage, repair, report }: CheckRequest): Promise<CheckReport> {
  try {
    const found = await readHead(storage);
    const replay = repair !== null && found.header.logGuid !== NO_GUID;
    if (replay) {
      checkLog(found.header, storage);
      await replayLog(storage);
    }
    const head = replay ? await readHead(storage) : found;
    const corruptions = await checkBlocks(head, storage, (line) => report(line, true));
    if (traceCheck.enabled) traceCheck.emit({ file: storage.name, replayed: replay, corruptions });
    return { ...cleanReport(), corruptions, corruptionsFixed: replay ? 1 : 0 };
  } catch (error) {
    throw inContext(error, storage.name, 'vhdx');
  }
}

interface Region {
  offset: number;
  length: number;
}

async function checkBlocks(head: VhdxHead, file: Storage, report: (line: string) => void): Promise<number> {
  const { storage, geometry, regions, header, parameters } = head;
  const structures: Region[] = [
    { ...regions.metadata },
    { ...regions.bat },
    { offset: header.logOffset, length: header.logLength },
    { offset: 0, length: HEADER_SECTION },
  ];
  const size = alignUp(file.size, SECTOR);
  const lastBytes = parameters.size - (geometry.blocks - 1) * parameters.blockSize;
  const bytes = Buffer.alloc(Math.min(PIECE_ENTRIES, geometry.entries) * BAT_ENTRY_LENGTH);
  const lastIndex = payloadIndex(geometry.blocks - 1, geometry.chunkRatio);
  let wrong = 0;
  for (let first = 0; first < geometry.entries; first += PIECE_ENTRIES) {
    const piece = bytes.subarray(0, Math.min(PIECE_ENTRIES, geometry.entries - first) * BAT_ENTRY_LENGTH);
    await readPadded(storage, regions.bat.offset + first * BAT_ENTRY_LENGTH, piece);
    for (let at = 0; at < piece.length; at += BAT_ENTRY_LENGTH) {
      if (entryState(piece, at) !== PayloadState.fullyPresent) continue;
      const index = first + at / BAT_ENTRY_LENGTH;
      // Sector bitmaps say nothing in a disk without a parent.
      if ((index + 1) % (geometry.chunkRatio + 1) === 0) continue;
      const problems = problemsOf(piece.readBigUInt64LE(at) & OFFSET_MASK, index, {
        ...{ structures, size, blockSize: parameters.blockSize },
        used: index === lastIndex ? lastBytes : parameters.blockSize,
      });
      problems.forEach(report);
      wrong += problems.length;
    }
  }
  return wrong;
}

interface BlockRules {
  structures: readonly Region[];
  /** Bytes of the file, which QEMU counts in sectors. */
  size: number;
  blockSize: number;
  /** Bytes of the block that belong to the disk: the file may end behind them. */
  used: number;
}

/** What is wrong with a block at `offset`, in QEMU's words. */
function problemsOf(offset: bigint, index: number, { structures, size, blockSize, used }: BlockRules): string[] {
  const problems: string[] = [];
  const entry = `VHDX BAT entry ${index}`;
  const truncated = `points after end of file (${size}). Image has probably been truncated.`;
  const start = Number(offset);
  const end = start + blockSize;
  const usedEnd = start + used;
  if (offset > OVERFLOW - BigInt(blockSize)) problems.push(`${entry} offset overflow.`);
  if (start >= size) problems.push(`${entry} start offset ${offset} ${truncated}`);
  else if (usedEnd > size) problems.push(`${entry} end offset ${usedEnd - 1} ${truncated}`);
  const other = structures.find((each) => start < each.offset + each.length && end > each.offset);
  if (other !== undefined) {
    const place = `${other.offset}-${other.offset + other.length}`;
    problems.push(`VHDX region ${start}-${end} overlaps with region ${place}`);
  }
  return problems;
}
