import { ensure } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import { BOCHS_HEADER_BYTES, type BochsHeader, decodeBochsHeader } from '../../layouts/bochs.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';
import { BlockSource } from '../block-source.ts';
import { Block, type BlockTables } from '../block-table.ts';
import { inContext } from '../context.ts';
import { refuseBeyondReading } from '../read-only.ts';
import type { Source, SourceRequest } from '../source.ts';
import { BochsTables } from './tables.ts';

const FORMAT = 'bochs';
const traceOpen = tracePoint('bochs_open');

/** Opens a growing redolog. Throws an ImageError with file, format and, where it has one, offset. */
export async function openBochs(request: SourceRequest): Promise<Source> {
  const { storage, metadataOnly = false } = request;
  try {
    refuseBeyondReading(FORMAT, request);
    const head = Buffer.alloc(BOCHS_HEADER_BYTES);
    await readPadded(storage, 0, head);
    const header = decodeBochsHeader(head);
    const { size, extentSize, version } = header;
    if (traceOpen.enabled) traceOpen.emit({ file: storage.name, version, size, extentSize });
    const tables = metadataOnly ? NO_TABLES : new BochsTables(storage, header, await readCatalog(storage, header));
    return new BlockSource({
      format: FORMAT,
      storage,
      size,
      blockSize: extentSize,
      tables,
      opaque: true,
      describe: () => ({ dirty: null }),
    });
  } catch (error) {
    throw inContext(error, storage.name, FORMAT);
  }
}

/** At most 4 MiB: the header's check sees to it. */
async function readCatalog(storage: Storage, { catalogOffset, catalogEntries }: BochsHeader): Promise<Buffer> {
  const there = catalogOffset + catalogEntries * 4 <= storage.size;
  ensure(there, 'The catalog lies past the end of the file', { offset: catalogOffset });
  const catalog = Buffer.alloc(catalogEntries * 4);
  await storage.read(catalogOffset, catalog);
  return catalog;
}

/** For a look at the header alone: nobody will ask. */
const NO_TABLES: BlockTables = {
  view: (first, count) => ({ first, count, uniform: Block.unallocated, entry: () => Block.unallocated }),
};
