import type { AnyOptionValues } from '../../core/options.ts';
import { tracePoint } from '../../core/trace.ts';
import { l1End, newQcowHeader, qcowGeometry } from '../../layouts/qcow.ts';
import { FirstTable } from '../../sources/qcow/index.ts';
import type { Source } from '../../sources/source.ts';
import type { Storage } from '../../storage/storage.ts';
import { BlockTarget } from '../blocks/target.ts';
import { startNewFile } from '../new-file.ts';
import { refuseEncryption } from './options.ts';
import { QcowStore } from './store.ts';

const traceCreate = tracePoint('qcow_create');

export interface QcowCreateRequest {
  storage: Storage;
  /** Guest size in bytes. */
  size: number;
  /** Values of `qcowCreateOptions`, and of the file protocol. */
  options: AnyOptionValues;
  backing: { filename: string; source: Source | null } | null;
}

/**
 * Makes a new image in `storage` and returns it open for writing. Header and L1 table are written by `close`; until
 * then nobody takes the file for a disk. The backing file's format has no place in the header: readers probe.
 */
export async function createQcow({ storage, size, options, backing }: QcowCreateRequest): Promise<BlockTarget> {
  refuseEncryption(options);
  const backingFile = backing?.filename ?? null;
  const header = newQcowHeader(size, backingFile);
  const geometry = qcowGeometry(header);
  await startNewFile(storage, options, 'qcow');
  if (traceCreate.enabled) traceCreate.emit({ file: storage.name, size, backing: backingFile });
  const end = l1End(header, geometry);
  await storage.zero(0, end);
  const store = new QcowStore({
    storage,
    head: { header, geometry, backingFile },
    l1: new FirstTable(geometry.l1Entries),
    fresh: true,
    end,
    backing: backing?.source ?? null,
  });
  return new BlockTarget(store);
}
