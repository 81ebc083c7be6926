import { inContext } from '../../sources/context.ts';
import { openQcowHead, qcowCipher, readL1 } from '../../sources/qcow/index.ts';
import type { Source, SourceRequest } from '../../sources/source.ts';
import { BlockTarget } from '../blocks/target.ts';
import { QcowStore } from './store.ts';

export interface QcowOpenRequest extends SourceRequest {
  /** The opened backing chain, for copy-on-write. */
  backing: Source | null;
}

/** Opens an existing image for writing. Errors as when it is opened for reading. */
export async function openQcowTarget(request: QcowOpenRequest): Promise<BlockTarget> {
  const { storage, backing } = request;
  try {
    const head = await openQcowHead(request);
    const cipher = qcowCipher(request, head);
    const l1 = await readL1(storage, head);
    return new BlockTarget(new QcowStore({ storage, head, l1, fresh: false, end: storage.size, backing, cipher }));
  } catch (error) {
    throw inContext(error, storage.name, 'qcow');
  }
}
