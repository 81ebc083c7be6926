import { alignUp } from '../../core/binary.ts';
import { ImageError } from '../../core/errors.ts';
import type { AnyOptionValues } from '../../core/options.ts';
import { tracePoint } from '../../core/trace.ts';
import { ENTRY_BYTES, Feature, l1EntriesFor, qedGeometry } from '../../layouts/qed/index.ts';
import { inContext } from '../../sources/context.ts';
import { readL1, readQedHead } from '../../sources/qed/head.ts';
import type { Source, SourceRequest } from '../../sources/source.ts';
import type { Storage } from '../../storage/storage.ts';
import { BlockTarget } from '../blocks/target.ts';
import { startNewFile } from '../new-file.ts';
import type { Target } from '../target.ts';
import { repairQed } from './check.ts';
import { type NewBacking, newQedHeader } from './options.ts';
import { fileEnd, QedStore } from './store.ts';
import { usedEnd } from './used-end.ts';

const traceCreate = tracePoint('qed_create');
const traceOpen = tracePoint('qed_open_target');

/** Disks are made of sectors of this size; others are rounded up. */
const SECTOR = 512;

export interface QedCreateRequest {
  storage: Storage;
  /** Guest size in bytes. */
  size: number;
  /** Values of `qedCreateOptions`. */
  options: AnyOptionValues;
  backing: (NewBacking & { source: Source | null }) | null;
}

/**
 * Makes a new image and returns it open for writing. The first cluster stays empty, but for a backing file's name,
 * until `close`.
 */
export async function createQed({ storage, size, options, backing }: QedCreateRequest): Promise<Target> {
  const header = newQedHeader(options, alignUp(size, SECTOR), backing);
  const geometry = qedGeometry(header);
  const end = header.l1Offset + geometry.tableBytes;
  if (storage.fixedSize && storage.size < end) {
    throw new ImageError('no-space', 'No space left on device', { file: storage.name, format: 'qed', code: 'ENOSPC' });
  }
  await startNewFile(storage, options, 'qed');
  if (traceCreate.enabled)
    traceCreate.emit({ file: storage.name, size: header.size, cluster_size: header.clusterSize });
  await storage.zero(0, end, { unmap: true });
  if (backing !== null) await storage.write(header.backingOffset, Buffer.from(backing.filename));
  const l1 = Buffer.alloc(l1EntriesFor(header.size, geometry) * ENTRY_BYTES);
  const store = new QedStore({
    storage,
    header,
    l1,
    reference: backing,
    backing: backing?.source ?? null,
    fresh: true,
    end,
  });
  return new BlockTarget(store);
}

export interface QedOpenRequest extends SourceRequest {
  /** The opened backing chain, for copy-on-write. */
  backing: Source | null;
}

/** Opens an existing image for writing. One that asks for a check gets it first: see `repairQed`. */
export async function openQedTarget({ storage, backing }: QedOpenRequest): Promise<Target> {
  try {
    const { header, backing: reference } = await readQedHead(storage);
    if (traceOpen.enabled) traceOpen.emit({ file: storage.name, size: header.size });
    if ((header.features & Feature.needCheck) !== 0n) await repairQed(storage, header);
    const l1 = await readL1(storage, header);
    const end = storage.fixedSize ? await usedEnd(storage, header, l1) : fileEnd(storage, header);
    return new BlockTarget(new QedStore({ storage, header, l1, reference, backing, fresh: false, end }));
  } catch (error) {
    throw inContext(error, storage.name, 'qed');
  }
}
