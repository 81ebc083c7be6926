import { tracePoint } from '../../core/trace.ts';
import { DiskType } from '../../layouts/vpc/index.ts';
import { BlockSource } from '../block-source.ts';
import { CachedTables } from '../cached-tables.ts';
import { inContext } from '../context.ts';
import type { Source, SourceRequest } from '../source.ts';
import { DifferencingTables } from './differencing.ts';
import { FixedSource } from './fixed.ts';
import { type DynamicHead, readHead } from './head.ts';
import { findParent } from './parent.ts';
import { sizeCalculation } from './runtime-options.ts';
import { endOfBlocks, tableShape } from './tables.ts';

const traceOpen = tracePoint('vpc_open');

/** Opens a VHD for reading: dynamic, fixed or differencing. Throws an ImageError with file and format. */
export async function openVpc(request: SourceRequest): Promise<Source> {
  try {
    return await open(request);
  } catch (error) {
    throw inContext(error, request.storage.name, 'vpc');
  }
}

async function open(request: SourceRequest): Promise<Source> {
  const { storage } = request;
  const head = await readHead(storage, sizeCalculation(request.options));
  const { size, footer } = head;
  if (traceOpen.enabled) traceOpen.emit({ file: storage.name, type: footer.diskType, size });
  if (head.dynamic === null) {
    const { footerOffset } = head;
    return new FixedSource(
      storage,
      () => size,
      () => footerOffset,
    );
  }
  await endOfBlocks(head, storage);
  return openDynamic(head, request);
}

async function openDynamic(head: DynamicHead, request: SourceRequest): Promise<BlockSource> {
  const { storage, writable } = request;
  const { footer, size, dynamic } = head;
  const differencing = footer.diskType === DiskType.differencing;
  return new BlockSource({
    format: 'vpc',
    storage,
    size,
    blockSize: dynamic.blockSize,
    tables: differencing ? new DifferencingTables(storage, head) : new CachedTables(storage, tableShape(head)),
    backing: differencing ? await findParent(head, request) : null,
    describe: () => ({ clusterSize: dynamic.blockSize }),
    writable,
  });
}
