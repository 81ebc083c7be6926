import { inflateRaw } from '../../core/codecs.ts';
import { ImageError } from '../../core/errors.ts';
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
export async function openQcow({ storage, options, writable, metadataOnly }: SourceRequest): Promise<BlockSource> {
  try {
    refuseUnknownOptions('qcow', options, []);
    const head = await readQcowHead(storage);
    if (traceOpen.enabled) traceOpen.emit({ file: storage.name, size: head.geometry.size });
    const l1 = metadataOnly === true ? new FirstTable(0) : await readL1(storage, head);
    const shape = qcowShape({ ...head, l1, end: () => storage.size });
    return qcowSource({ storage, head, tables: new CachedTables(storage, shape), writable });
  } catch (error) {
    throw inContext(error, storage.name, 'qcow');
  }
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

/** The L1 table of an image whose clusters can be read. */
export async function readL1(storage: Storage, { header, geometry }: QcowHead): Promise<FirstTable> {
  if (header.crypt !== QcowCrypt.none) {
    throw new ImageError('unsupported', 'Encrypted images cannot be read or written yet');
  }
  checkL1(header, geometry, storage.size);
  return FirstTable.read(storage, header.l1Offset, geometry.l1Entries);
}

export interface QcowSourceOptions {
  storage: Storage;
  head: QcowHead;
  tables: BlockTables;
  writable: boolean;
}

/** The disk as `tables` has it: for reading alone, and for the reading half of a target. */
export function qcowSource({ storage, head, tables, writable }: QcowSourceOptions): BlockSource {
  const { header, geometry, backingFile } = head;
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
    describe: () => ({ clusterSize, encrypted: header.crypt !== QcowCrypt.none }),
  });
}
