import { inflateRaw } from '../../core/codecs.ts';
import { tracePoint } from '../../core/trace.ts';
import {
  checkL1,
  decodeBackingName,
  decodeQcowHeader,
  QCOW_HEADER,
  QcowCrypt,
  type QcowGeometry,
  type QcowHeader,
  qcowGeometry,
} from '../../layouts/qcow.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';
import { BlockSource } from '../block-source.ts';
import type { BlockTables } from '../block-table.ts';
import { CachedTables } from '../cached-tables.ts';
import { inContext } from '../context.ts';
import type { ClusterCipher } from '../encryption/cluster-cipher.ts';
import { legacyAes } from '../encryption/legacy-aes.ts';
import { checkEncryptOptions, passphraseOf } from '../encryption/node-options.ts';
import { refuseUnknownOptions } from '../node-options.ts';
import type { SourceRequest } from '../source.ts';
import { FirstTable } from './first-table.ts';
import { qcowShape } from './shape.ts';

export { FirstTable } from './first-table.ts';
export { qcowShape } from './shape.ts';

const traceOpen = tracePoint('qcow_open');

/** What an image says of itself. */
export interface QcowHead {
  header: QcowHeader;
  geometry: QcowGeometry;
  backingFile: string | null;
}

/** Opens a qcow image, version 1, for reading. Throws an ImageError with file, format and, where it has one, offset. */
export async function openQcow(request: SourceRequest): Promise<BlockSource> {
  const { storage, writable, metadataOnly } = request;
  try {
    const head = await openQcowHead(request);
    if (traceOpen.enabled) traceOpen.emit({ file: storage.name, size: head.geometry.size });
    const cipher = metadataOnly === true && request.forCheck !== true ? null : qcowCipher(request, head);
    const l1 = metadataOnly === true ? new FirstTable(0) : await readL1(storage, head);
    const shape = qcowShape({ ...head, l1, end: () => storage.size });
    return qcowSource({ storage, head, tables: new CachedTables(storage, shape), writable, cipher });
  } catch (error) {
    throw inContext(error, storage.name, 'qcow');
  }
}

/** Reads the head, and holds the node's options against it. */
export async function openQcowHead({ storage, options }: SourceRequest): Promise<QcowHead> {
  refuseUnknownOptions('qcow', options, ['encrypt']);
  const head = await readQcowHead(storage);
  checkEncryptOptions(options, isEncrypted(head) ? 'aes' : null);
  return head;
}

/** What the clusters are encrypted with; null: they aren't. */
export function qcowCipher({ options, secrets }: SourceRequest, head: QcowHead): ClusterCipher | null {
  return isEncrypted(head) ? legacyAes(passphraseOf(options, secrets)) : null;
}

function isEncrypted({ header }: QcowHead): boolean {
  return header.crypt !== QcowCrypt.none;
}

/** Header and backing file name, checked. A file that ends within them is judged by what is there, as QEMU does. */
export async function readQcowHead(storage: Storage): Promise<QcowHead> {
  const head = Buffer.alloc(QCOW_HEADER);
  await readPadded(storage, 0, head);
  const header = decodeQcowHeader(head);
  const name = Buffer.alloc(header.backingOffset === 0 ? 0 : header.backingLength);
  await readPadded(storage, header.backingOffset, name);
  return { header, geometry: qcowGeometry(header), backingFile: decodeBackingName(name) };
}

/** The L1 table. */
export async function readL1(storage: Storage, { header, geometry }: QcowHead): Promise<FirstTable> {
  checkL1(header, geometry, storage.size);
  return FirstTable.read(storage, header.l1Offset, geometry.l1Entries);
}

export interface QcowSourceOptions {
  storage: Storage;
  head: QcowHead;
  tables: BlockTables;
  writable: boolean;
  /** Closed with the source. */
  cipher: ClusterCipher | null;
}

/** The disk as `tables` has it: for reading alone, and for the reading half of a target. */
export function qcowSource({ storage, head, tables, writable, cipher }: QcowSourceOptions): BlockSource {
  const { geometry, backingFile } = head;
  const { clusterSize, size } = geometry;
  return new BlockSource({
    format: 'qcow',
    storage,
    size,
    blockSize: clusterSize,
    tables,
    // The header has no place for the format: it is probed.
    backing: backingFile === null ? null : { filename: backingFile, format: null },
    unpack: inflateRaw,
    writable,
    describe: () => ({ clusterSize, encrypted: isEncrypted(head) }),
    cipher,
    close: async () => cipher?.close(),
  });
}
