import { alignUp } from '../../core/binary.ts';
import { ensure, ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import {
  checkTables,
  decodeDataFileName,
  decodeHeader,
  decodeTail,
  geometryOf,
  type HeaderTail,
  Incompatible,
  KNOWN_INCOMPATIBLE,
  MAX_CLUSTER_BITS,
  type Qcow2Header,
} from '../../layouts/qcow2/index.ts';
import { inContext } from '../../sources/qcow2/context.ts';
import { luksPlace, unlockClusters } from '../../sources/qcow2/encryption.ts';
import type { Source, SourceRequest } from '../../sources/source.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';
import { Qcow2Image } from './image.ts';
import { ownSource } from './own-source.ts';
import { Qcow2Target } from './target.ts';

const traceOpen = tracePoint('qcow2_open_target');

export interface Qcow2OpenRequest extends SourceRequest {
  /** The opened backing chain, for copy-on-write. */
  backing: Source | null;
}

/**
 * Opens an existing image for writing. An image marked corrupt or with features unknown here is refused, and so is an
 * encrypted one without its key; one marked dirty is repaired first.
 */
export async function openQcow2Target(request: Qcow2OpenRequest): Promise<Qcow2Target> {
  try {
    const image = await openImage(request);
    return new Qcow2Target(image, { source: ownSource(image), readsAsZero: false });
  } catch (error) {
    throw inContext(error, request.storage.name);
  }
}

/** The image itself, for what changes its structure and not its contents. Refuses what `openQcow2Target` refuses. */
export async function openQcow2Image(request: Qcow2OpenRequest): Promise<Qcow2Image> {
  try {
    return await openImage(request);
  } catch (error) {
    throw inContext(error, request.storage.name);
  }
}

async function openImage(request: Qcow2OpenRequest): Promise<Qcow2Image> {
  const { storage } = request;
  const { header, tail } = await readHead(storage);
  refuse(storage, header);
  checkTables(header);
  const geometry = geometryOf(header);
  checkLuksPlace(storage, { header, tail });
  // Whoever lacks the key does not even repair.
  const cipher = await unlockClusters(request, { header, tail });
  if ((header.incompatible & Incompatible.dirty) !== 0n) {
    const { repairDirtyImage } = await import('./check/index.ts');
    await repairDirtyImage(storage, { header, tail, geometry });
  }
  // Padding behind the entries belongs to the table's last cluster.
  const l1 = await readTable(storage, { offset: header.l1Offset, bytes: header.l1Entries * 8, what: 'L1 table' });
  const refcountTable = await readTable(storage, {
    offset: header.refcountTableOffset,
    bytes: header.refcountTableClusters * geometry.clusterSize,
    what: 'refcount table',
  });
  if (traceOpen.enabled) traceOpen.emit({ file: storage.name, size: header.size, snapshots: header.snapshotCount });
  const data = await openData(request, header, tail);
  try {
    return new Qcow2Image({
      storage,
      data,
      header,
      tail,
      geometry,
      l1,
      refcountTable,
      backing: request.backing,
      cipher,
      fresh: false,
    });
  } catch (error) {
    if (data !== storage) await data.close().catch(() => {});
    throw error;
  }
}

async function readHead(storage: Storage): Promise<{ header: Qcow2Header; tail: HeaderTail }> {
  const head = Buffer.alloc(Math.min(storage.size, 2 ** MAX_CLUSTER_BITS));
  await storage.read(0, head);
  const header = decodeHeader(head);
  return { header, tail: decodeTail(head, header) };
}

function refuse(storage: Storage, header: Qcow2Header): void {
  const context = { file: storage.name, format: 'qcow2', operation: 'open' };
  if ((header.incompatible & ~KNOWN_INCOMPATIBLE) !== 0n) {
    throw new ImageError('unsupported', 'The image has incompatible features that are not known', context);
  }
  if ((header.incompatible & Incompatible.corrupt) !== 0n) {
    throw new ImageError('corrupt', 'qcow2: Image is corrupt; cannot be opened read/write', context);
  }
}

/** The room for key slots that aren't in use may lie anywhere in it. */
function checkLuksPlace(storage: Storage, head: { header: Qcow2Header; tail: HeaderTail }): void {
  const { offset, length } = luksPlace(head) ?? { offset: 0, length: 0 };
  const end = alignUp(storage.size, 2 ** head.header.clusterBits);
  ensure(offset + length <= end, 'The encryption header lies past the end of the file', { offset });
}

async function readTable(
  storage: Storage,
  { offset, bytes, what }: { offset: number; bytes: number; what: string },
): Promise<Buffer> {
  // Memory is taken only for what the file has.
  ensure(offset < storage.size || bytes === 0, `The ${what} lies past the end of the file`, {
    file: storage.name,
    format: 'qcow2',
    offset,
  });
  ensure(offset + bytes <= alignUp(storage.size, 2 ** MAX_CLUSTER_BITS), `The ${what} is cut off`, {
    file: storage.name,
    format: 'qcow2',
    offset,
  });
  const table = Buffer.alloc(bytes);
  await readPadded(storage, offset, table);
  return table;
}

async function openData(request: Qcow2OpenRequest, header: Qcow2Header, tail: HeaderTail): Promise<Storage> {
  const { storage, gate, options } = request;
  if ((header.incompatible & Incompatible.dataFile) === 0n) return storage;
  const named = options['data-file'] ?? options['data-file.filename'];
  const name = typeof named === 'string' ? named : decodeDataFileName(tail.extensions);
  if (name === null || name === '') {
    throw new ImageError('corrupt', "'data-file' is required for this image", { file: storage.name, format: 'qcow2' });
  }
  return gate.openStorage(name, storage, { writable: true, role: 'data' });
}
