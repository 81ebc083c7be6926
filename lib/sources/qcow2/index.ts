import { ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import { Incompatible, QCOW2_MAGIC } from '../../layouts/qcow2/index.ts';
import { isSparse } from '../holes.ts';
import type { SourceRequest } from '../source.ts';
import { inContext } from './context.ts';
import { openData } from './data-file.ts';
import { checkEncryption, unlockClusters } from './encryption.ts';
import { readHead } from './head.ts';
import { checkRuntimeOptions } from './runtime-options.ts';
import { readL1, readSnapshots } from './snapshots.ts';
import { Qcow2Source, type Qcow2SourceOptions } from './source.ts';
import { CachedTables } from './tables.ts';

export { readHead } from './head.ts';
export { Qcow2Source, type Qcow2SourceOptions } from './source.ts';
export type { TableProvider } from './tables.ts';

const traceOpen = tracePoint('qcow2_open');

/** Certain from magic and version on: version 1 is another format. */
export function probeQcow2(head: Buffer): number {
  if (head.length < 8 || head.readUInt32BE(0) !== QCOW2_MAGIC) return 0;
  return head.readUInt32BE(4) >= 2 ? 100 : 0;
}

/** Opens a qcow2 image, version 2 or 3, for reading. Throws an ImageError with file, format and, where it has one, offset. */
export async function openQcow2(request: SourceRequest): Promise<Qcow2Source> {
  try {
    return await open(request);
  } catch (error) {
    throw inContext(error, request.storage.name);
  }
}

async function open(request: SourceRequest): Promise<Qcow2Source> {
  const { storage, writable, metadataOnly = false, forCheck = false } = request;
  const head = await readHead(storage, { forCheck });
  checkRuntimeOptions(request.options);
  checkEncryption(head, request.options);
  const { header, tail, geometry } = head;
  if (traceOpen.enabled) traceOpen.emit({ file: storage.name, version: header.version, size: header.size });
  if (writable && !forCheck && (header.incompatible & Incompatible.corrupt) !== 0n) {
    throw new ImageError('refused', 'qcow2: Image is corrupt; cannot be opened read/write');
  }
  // Checked first, so that an image without its key does not cost a look at anything else.
  const cipher = metadataOnly && !forCheck ? null : await unlockClusters(request, head);
  const common = { storage, header, tail, geometry, writable, cipher };
  const owned: Qcow2SourceOptions['owned'][number][] = cipher === null ? [] : [cipher];
  if (metadataOnly) return new Qcow2Source({ ...common, data: null, tables: null, owned });
  await readSnapshots(storage, header);
  const l1 = await readL1(storage, header.l1Offset, header.l1Entries, geometry);
  const data = await openData(request, head);
  if (data !== storage) owned.push(data);
  const tables = new CachedTables(storage, l1, geometry);
  const sparse = data === storage && cipher === null && (await isSparse(storage, geometry.clusterSize));
  return new Qcow2Source({ ...common, data, tables, owned, sparse });
}
