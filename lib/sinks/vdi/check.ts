import { BitSet } from '../../core/bit-set.ts';
import { ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import { isAllocated, MAP_ENTRY, type VdiHeader } from '../../layouts/vdi.ts';
import { inContext } from '../../sources/context.ts';
import { readVdiHeader } from '../../sources/vdi/index.ts';
import type { Storage } from '../../storage/storage.ts';
import { type CheckReport, type CheckRequest, cleanReport } from '../checks.ts';

const traceCheck = tracePoint('vdi_check');

const READ_BYTES = 1024 * 1024;

/**
 * Checks a VDI image as QEMU does: each block has one place, among as many as the map has entries, and the header
 * counts them right. Nothing of it can be repaired without a guess: QEMU refuses that too.
 */
export async function checkVdi({ storage, repair, report }: CheckRequest): Promise<CheckReport> {
  try {
    if (repair !== null) throw new ImageError('unsupported', 'This image format does not support checks');
    const header = await readVdiHeader(storage);
    const found = await checkMap(storage, header, report);
    let { corruptions } = found;
    if (found.allocated !== header.allocated) {
      report(`ERROR: allocated blocks mismatch, is ${found.allocated}, should be ${header.allocated}`);
      corruptions += 1;
    }
    if (traceCheck.enabled) traceCheck.emit({ file: storage.name, allocated: found.allocated, corruptions });
    return { ...cleanReport(), corruptions };
  } catch (error) {
    throw inContext(error, storage.name, 'vdi');
  }
}

/**
 * Looks at each entry of the block map. Of a map that is cut off by the file's end only what is there is looked at, and
 * the rest is one error: QEMU takes it for zeros, and complains of each of them, which may be 2^29.
 */
async function checkMap(storage: Storage, { mapOffset, blocks }: VdiHeader, report: (line: string) => void) {
  const there = Math.max(0, Math.min(blocks, Math.floor((storage.size - mapOffset) / MAP_ENTRY)));
  const used = new BitSet();
  const buffer = Buffer.alloc(READ_BYTES);
  let allocated = 0;
  let corruptions = 0;
  for (let block = 0; block < there; ) {
    const piece = buffer.subarray(0, Math.min(READ_BYTES, (there - block) * MAP_ENTRY));
    await storage.read(mapOffset + block * MAP_ENTRY, piece);
    for (let at = 0; at < piece.length; at += MAP_ENTRY, block += 1) {
      const entry = piece.readUInt32LE(at);
      if (!isAllocated(entry)) continue;
      if (entry < blocks) allocated += 1;
      if (entry < blocks && used.add(entry)) continue;
      const wrong = entry < blocks ? `${entry} also used by ${entry}` : `${block} too large, is ${entry}`;
      report(`ERROR: block index ${wrong}`);
      corruptions += 1;
    }
  }
  if (there < blocks) {
    report(`ERROR: the block map lies past the end of the file, from block ${there} on`);
    corruptions += 1;
  }
  return { allocated, corruptions };
}
