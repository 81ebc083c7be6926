import { alignUp } from '../../core/binary.ts';
import { ensure, ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import { ALIGNMENT, NO_GUID } from '../../layouts/vhdx/index.ts';
import { inContext } from '../../sources/context.ts';
import { refuseUnknownOptions } from '../../sources/node-options.ts';
import type { SourceRequest } from '../../sources/source.ts';
import { readHead, type VhdxHead } from '../../sources/vhdx/head.ts';
import { VhdxTables } from '../../sources/vhdx/tables.ts';
import type { Storage } from '../../storage/storage.ts';
import { BlockTarget } from '../blocks/target.ts';
import { checkLog, replayLog } from './replay.ts';
import { SPARSE_UNIT, VhdxStore } from './store.ts';

const FORMAT = 'vhdx';

const traceOpen = tracePoint('vhdx_open_target');

/**
 * Opens an existing image for writing; what is in its log is brought to its place first. A differencing disk is
 * refused: its parent is read, and never written around.
 */
export async function openVhdxTarget(request: SourceRequest): Promise<BlockTarget> {
  try {
    return await open(request);
  } catch (error) {
    throw inContext(error, request.storage.name, FORMAT);
  }
}

async function open({ storage, options }: SourceRequest): Promise<BlockTarget> {
  refuseUnknownOptions(FORMAT, options, []);
  // All is looked at before the log changes the file: a broken one stays as it is.
  const found = await readHead(storage);
  refuse(found, storage);
  const isDirty = found.header.logGuid !== NO_GUID;
  if (traceOpen.enabled) traceOpen.emit({ file: storage.name, size: found.parameters.size, dirty: isDirty });
  const end = await endOfBlocks(found);
  if (isDirty) await replayLog(storage);
  const head = isDirty ? await readHead(storage) : found;
  const store = new VhdxStore({ head, fresh: false, end, blockStateZero: true });
  return new BlockTarget(store, { sparseUnit: SPARSE_UNIT });
}

function refuse({ parameters, header }: VhdxHead, storage: Storage): void {
  if (parameters.hasParent) {
    throw new ImageError('unsupported', 'Differencing VHDX files can be read only', { file: storage.name });
  }
  checkLog(header, storage);
}

/**
 * Where the next block can go: behind all that the file has, and behind the last block that the BAT tells of, within
 * which the file may end. `corrupt` for a block of which it has nothing: whatever were written next would share its
 * place.
 */
async function endOfBlocks(head: VhdxHead): Promise<number> {
  const { storage } = head;
  const { bat, metadata } = head.regions;
  const { logOffset, logLength } = head.header;
  let end = Math.max(bat.offset + bat.length, metadata.offset + metadata.length, logOffset + logLength);
  // The end of a device says nothing.
  if (!storage.fixedSize) end = Math.max(end, storage.size);
  const tables = new VhdxTables(head);
  for (let block = 0; block < head.geometry.blocks; ) {
    const view = await tables.view(block, head.geometry.blocks - block);
    for (const stop = view.first + view.count; block < stop; block += 1) {
      const host = view.entry(block);
      if (host < 0) continue;
      ensure(host < storage.size, 'A block lies past the end of the file', { offset: host });
      end = Math.max(end, host + head.parameters.blockSize);
    }
  }
  return alignUp(end, ALIGNMENT);
}
