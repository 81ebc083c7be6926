import { checkVdiTables } from '../../layouts/vdi.ts';
import { inContext } from '../../sources/context.ts';
import { refuseUnknownOptions } from '../../sources/node-options.ts';
import type { SourceRequest } from '../../sources/source.ts';
import { readVdiHeader } from '../../sources/vdi/index.ts';
import { BlockTarget } from '../blocks/target.ts';
import { VdiStore } from './store.ts';

/** Opens an existing image for writing. Errors as when it is opened for reading. */
export async function openVdiTarget({ storage, options }: SourceRequest): Promise<BlockTarget> {
  try {
    refuseUnknownOptions('vdi', options, []);
    const header = await readVdiHeader(storage);
    checkVdiTables(header, storage.size);
    return new BlockTarget(new VdiStore(storage, header, { fresh: false }));
  } catch (error) {
    throw inContext(error, storage.name, 'vdi');
  }
}
