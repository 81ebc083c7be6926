import { ImageError } from '../../core/errors.ts';
import type { AnyOptionValues } from '../../core/options.ts';
import { tracePoint } from '../../core/trace.ts';
import { DiskType, FOOTER_SIZE, hasCookie, SECTOR } from '../../layouts/vpc/index.ts';
import { inContext } from '../../sources/context.ts';
import type { SourceRequest } from '../../sources/source.ts';
import { type DynamicHead, readHead } from '../../sources/vpc/head.ts';
import { sizeCalculation } from '../../sources/vpc/runtime-options.ts';
import { endOfBlocks } from '../../sources/vpc/tables.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';
import { BlockTarget } from '../blocks/target.ts';
import { startNewFile } from '../new-file.ts';
import type { Target } from '../target.ts';
import { FixedTarget } from './fixed.ts';
import { endOfTable, newDynamicHead } from './new-head.ts';
import { checkSettings, shapeOf } from './options.ts';
import { VpcStore } from './store.ts';
import { fillTable } from './table.ts';

/** Blocks are handled whole in places: larger ones than anybody makes are read, but not written. */
const MAX_WRITABLE_BLOCK = 256 * 1024 * 1024;

/** What a page of the file takes: less saves nothing, and all of a block of 2 MiB would be much. */
const SPARSE_UNIT = 4096;

const traceCreate = tracePoint('vpc_create');
const traceOpen = tracePoint('vpc_open_target');

export interface VpcCreateRequest {
  storage: Storage;
  /** Guest size in bytes. */
  size: number;
  /** Values of `vpcCreateOptions`, and those of the file. */
  options: AnyOptionValues;
}

/** Makes a new VHD and returns it open for writing; `close` gives it what makes it one. */
export async function createVpc({ storage, size, options }: VpcCreateRequest): Promise<Target> {
  const settings = checkSettings(options);
  const shape = shapeOf(size, settings);
  if (traceCreate.enabled) traceCreate.emit({ file: storage.name, size: shape.size, fixed: settings.fixed });
  await startNewFile(storage, options, 'vpc');
  if (settings.fixed) return FixedTarget.create(storage, shape, settings);
  const head = newDynamicHead(shape);
  const { tableOffset, tableEntries } = head.dynamic;
  // What was on a device goes.
  if (storage.fixedSize) await storage.write(0, Buffer.alloc(FOOTER_SIZE));
  await fillTable(storage, tableOffset, 0, tableEntries);
  return blockTarget(new VpcStore({ storage, head, end: endOfTable(tableOffset, tableEntries), settings }));
}

function blockTarget(store: VpcStore): BlockTarget {
  return new BlockTarget(store, { sparseUnit: SPARSE_UNIT });
}

/** Opens an existing dynamic or fixed VHD for writing. Differencing disks are refused. */
export async function openVpcTarget(request: SourceRequest): Promise<Target> {
  try {
    return await open(request);
  } catch (error) {
    throw inContext(error, request.storage.name, 'vpc');
  }
}

async function open({ storage, options }: SourceRequest): Promise<Target> {
  const head = await readHead(storage, sizeCalculation(options));
  if (traceOpen.enabled) traceOpen.emit({ file: storage.name, type: head.footer.diskType, size: head.size });
  if (head.dynamic !== null) {
    checkWritable(head);
    const end = await endOfContents(head, storage);
    return blockTarget(new VpcStore({ storage, head, end, settings: null }));
  }
  if (head.size > head.footerOffset) {
    throw new ImageError('corrupt', 'The file ends before the data that should be there');
  }
  return FixedTarget.existing(storage, head.size);
}

function checkWritable({ footer, dynamic }: DynamicHead): void {
  let what: string;
  if (footer.diskType === DiskType.differencing) what = 'Differencing disks';
  else if (dynamic.blockSize > MAX_WRITABLE_BLOCK) what = `Blocks of ${dynamic.blockSize} bytes`;
  else if (dynamic.tableOffset % SECTOR !== 0) what = 'Block allocation tables that are not aligned to sectors';
  else return;
  throw new ImageError('unsupported', `${what} are not supported for writing`);
}

/** Where blocks can be appended: where the footer is, or, if there is none, behind all there is. */
async function endOfContents(head: DynamicHead, storage: Storage): Promise<number> {
  const endOfUse = await endOfBlocks(head, storage);
  // A device's end tells nothing.
  if (storage.fixedSize) return endOfUse;
  const fileEnd = Math.ceil(storage.size / SECTOR) * SECTOR;
  const last = Buffer.alloc(FOOTER_SIZE);
  await readPadded(storage, fileEnd - FOOTER_SIZE, last);
  return hasCookie(last) && fileEnd - FOOTER_SIZE >= endOfUse ? fileEnd - FOOTER_SIZE : fileEnd;
}
