import { ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import { NO_GUID } from '../../layouts/vhdx/index.ts';
import { BlockSource } from '../block-source.ts';
import { inContext } from '../context.ts';
import { isSparse } from '../holes.ts';
import { refuseUnknownOptions } from '../node-options.ts';
import type { SourceRequest } from '../source.ts';
import { readHead } from './head.ts';
import { checkLinkage, parentReference } from './parent.ts';
import { VhdxTables } from './tables.ts';

const FORMAT = 'vhdx';

/** Blocks are of megabytes, and often mostly holes: holes are looked for where the file lacks a few of these. */
const HOLE_UNIT = 64 * 1024;

const traceOpen = tracePoint('vhdx_open');

/**
 * Opens a VHDX image for reading: dynamic, fixed or differencing. What is in the log of a file that was not closed
 * counts, and the file stays as it is. Throws an ImageError with file and format.
 */
export async function openVhdx(request: SourceRequest): Promise<BlockSource> {
  try {
    return await open(request);
  } catch (error) {
    throw inContext(error, request.storage.name, FORMAT);
  }
}

async function open(request: SourceRequest): Promise<BlockSource> {
  refuseUnknownOptions(FORMAT, request.options, []);
  const head = await readHead(request.storage);
  const { parameters, header } = head;
  const { size, blockSize, hasParent } = parameters;
  if (request.forCheck === true) refuseDirtyLog(request, header.logGuid !== NO_GUID);
  if (traceOpen.enabled) {
    const dirty = header.logGuid !== NO_GUID;
    traceOpen.emit({ file: request.storage.name, size, block_size: blockSize, differencing: hasParent, dirty });
  }
  if (request.metadataOnly !== true) await checkLinkage(head, request);
  return new BlockSource({
    format: FORMAT,
    storage: request.storage,
    data: head.storage,
    size,
    blockSize,
    tables: new VhdxTables(head),
    backing: parentReference(head),
    describe: () => ({ clusterSize: blockSize }),
    writable: request.writable,
    opaque: true,
    showHoles: request.metadataOnly !== true && (await isSparse(request.storage, HOLE_UNIT)),
  });
}

/** A check says that there is a log to be replayed, in QEMU's words; it is done where the image may be repaired. */
function refuseDirtyLog({ storage, writable }: SourceRequest, dirty: boolean): void {
  if (!dirty || writable) return;
  const { name } = storage;
  const found = `VHDX image file '${name}' opened read-only, but contains a log that needs to be replayed`;
  throw new ImageError('refused', `${found}\nTo replay the log, run:\nqemu-img check -r all '${name}'`);
}
