import { alignUp } from '../../core/binary.ts';
import { ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import { SECTOR } from '../../layouts/vmdk/index.ts';
import { Block, type BlockTables } from '../../sources/block-table.ts';
import { inContext } from '../../sources/context.ts';
import type { VmdkExtent } from '../../sources/vmdk/image.ts';
import { openVmdk } from '../../sources/vmdk/index.ts';
import { type CheckReport, type CheckRequest, cleanReport } from '../checks.ts';

const traceCheck = tracePoint('vmdk_check');

/**
 * Checks that all grains of all extents begin in their files. As with QEMU the first one that does not ends the check,
 * and nothing can be repaired. Grains in the metadata and tables past the end of the file, which QEMU passes over, are
 * errors here as they are for whoever reads the image.
 */
export async function checkVmdk(request: CheckRequest): Promise<CheckReport> {
  const { storage, repair, report } = request;
  try {
    if (repair !== null) throw new ImageError('unsupported', 'This image format does not support checks');
    const image = await openVmdk(request);
    try {
      let start = 0;
      for (const extent of image.extents) {
        const wrong = await firstOutside(extent);
        if (wrong >= 0) {
          report(`ERROR: cluster offset for sector ${(start + wrong) / SECTOR} points after EOF`);
          throw new ImageError('corrupt', 'Invalid argument', { file: extent.storage?.name });
        }
        start += extent.reader.size;
      }
      if (traceCheck.enabled) traceCheck.emit({ file: storage.name, size: start, extents: image.extents.length });
    } finally {
      await image.close();
    }
    return cleanReport();
  } catch (error) {
    throw inContext(error, storage.name, 'vmdk');
  }
}

/** The guest offset, in the extent, of the first grain that lies past the end of the file; -1: none does. */
async function firstOutside({ storage, reader, grainBytes }: VmdkExtent): Promise<number> {
  const { tables, size } = reader;
  if (storage === null || grainBytes === null || tables === undefined) return -1;
  const end = alignUp(storage.size, SECTOR);
  const block = await firstBehind(tables, Math.ceil(size / grainBytes), end);
  return block < 0 ? -1 : block * grainBytes;
}

async function firstBehind(tables: BlockTables, blocks: number, end: number): Promise<number> {
  for (let block = 0; block < blocks; ) {
    const found = tables.view(block, blocks - block);
    const view = found instanceof Promise ? await found : found;
    const stop = Math.min(blocks, view.first + view.count);
    if (view.uniform !== undefined && view.uniform < 0) {
      block = stop;
      continue;
    }
    for (; block < stop; block += 1) {
      const entry = view.entry(block);
      const host = entry === Block.packed ? (view.packed?.(block).host ?? 0) : entry;
      if (host >= end) return block;
    }
  }
  return -1;
}
