import { tracePoint } from '../../core/trace.ts';
import { checkVdiTables, decodeVdiHeader, VDI_BLOCK, VDI_HEADER, type VdiHeader, VdiType } from '../../layouts/vdi.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';
import { BlockSource } from '../block-source.ts';
import type { BlockTables } from '../block-table.ts';
import { CachedTables } from '../cached-tables.ts';
import { inContext } from '../context.ts';
import { refuseUnknownOptions } from '../node-options.ts';
import type { SourceRequest } from '../source.ts';
import { vdiShape } from './shape.ts';

export { vdiShape } from './shape.ts';

const traceOpen = tracePoint('vdi_open');

/** Opens a VDI image for reading. Throws an ImageError with file, format and, where it has one, offset. */
export async function openVdi({ storage, options, writable, metadataOnly }: SourceRequest): Promise<BlockSource> {
  try {
    refuseUnknownOptions('vdi', options, []);
    const header = await readVdiHeader(storage);
    if (metadataOnly !== true) checkVdiTables(header, storage.size);
    if (traceOpen.enabled) traceOpen.emit({ file: storage.name, type: header.type, size: header.size });
    return vdiSource({ storage, header, tables: new CachedTables(storage, vdiShape(header)), writable });
  } catch (error) {
    throw inContext(error, storage.name, 'vdi');
  }
}

/** The header, checked. A file that ends within it is judged by what is there, as QEMU does. */
export async function readVdiHeader(storage: Storage): Promise<VdiHeader> {
  const head = Buffer.alloc(VDI_HEADER);
  await readPadded(storage, 0, head);
  return decodeVdiHeader(head);
}

export interface VdiSourceOptions {
  storage: Storage;
  header: VdiHeader;
  tables: BlockTables;
  writable: boolean;
}

/** The disk as `tables` has it: for reading alone, and for the reading half of a target. */
export function vdiSource({ storage, header, tables, writable }: VdiSourceOptions): BlockSource {
  return new BlockSource({
    format: 'vdi',
    storage,
    size: header.size,
    blockSize: VDI_BLOCK,
    tables,
    writable,
    // All blocks of a static image are there from the start, mostly as holes.
    showHoles: header.type === VdiType.static,
    describe: () => ({ clusterSize: VDI_BLOCK }),
  });
}
