import { tracePoint } from '../../core/trace.ts';
import { DiskType } from '../../layouts/vpc/index.ts';
import { BlockSource, type BlockSourceOptions } from '../block-source.ts';
import { CachedTables } from '../cached-tables.ts';
import { inContext } from '../context.ts';
import type { Source, SourceRequest } from '../source.ts';
import { DifferencingTables } from './differencing.ts';
import { FixedSource } from './fixed.ts';
import { type DynamicHead, readHead } from './head.ts';
import { checkParent, findParent, rememberId } from './parent.ts';
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
    const source = new FixedSource(
      storage,
      () => size,
      () => footerOffset,
    );
    return rememberId(source, head);
  }
  await endOfBlocks(head, storage);
  return rememberId(await openDynamic(head, request), head);
}

async function openDynamic(head: DynamicHead, request: SourceRequest): Promise<BlockSource> {
  const { storage, writable } = request;
  const { footer, size, dynamic } = head;
  const { blockSize } = dynamic;
  const common = {
    format: 'vpc',
    storage,
    size,
    blockSize,
    describe: () => ({ clusterSize: blockSize }),
    writable,
  };
  if (footer.diskType !== DiskType.differencing) {
    return new BlockSource({ ...common, tables: new CachedTables(storage, tableShape(head)) });
  }
  const tables = new DifferencingTables(storage, head);
  return new DifferencingSource({ ...common, tables, backing: await findParent(head, request) }, head);
}

/** A differencing disk, which knows its parent by its ID. */
class DifferencingSource extends BlockSource {
  readonly #head: DynamicHead;

  constructor(options: BlockSourceOptions, head: DynamicHead) {
    super(options);
    this.#head = head;
  }

  checkBacking(below: Source): void {
    checkParent(this.#head, below);
  }
}
