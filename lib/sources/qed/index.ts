import { tracePoint } from '../../core/trace.ts';
import type { QedHeader } from '../../layouts/qed/index.ts';
import type { Storage } from '../../storage/storage.ts';
import { BlockSource } from '../block-source.ts';
import type { BlockTables } from '../block-table.ts';
import { CachedTables } from '../cached-tables.ts';
import { inContext } from '../context.ts';
import { refuseUnknownOptions } from '../node-options.ts';
import type { BackingReference, LayerInfo, Source, SourceRequest } from '../source.ts';
import { readL1, readQedHead } from './head.ts';
import { qedShape } from './shape.ts';

const traceOpen = tracePoint('qed_open');

/** Opens a QED image for reading. Throws an ImageError with file, format and, where it has one, offset. */
export async function openQed(request: SourceRequest): Promise<Source> {
  const { storage, options, metadataOnly = false } = request;
  try {
    const { header, backing } = await readQedHead(storage);
    refuseUnknownOptions('qed', options, []);
    if (traceOpen.enabled) traceOpen.emit({ file: storage.name, size: header.size, features: Number(header.features) });
    const l1 = metadataOnly ? Buffer.alloc(0) : await readL1(storage, header);
    const tables = new CachedTables(storage, qedShape({ storage, header, l1: () => l1 }));
    return qedSource({ storage, header, backing, tables });
  } catch (error) {
    throw inContext(error, storage.name, 'qed');
  }
}

export interface QedSourceOptions {
  storage: Storage;
  header: QedHeader;
  backing: BackingReference | null;
  tables: BlockTables;
  /** Somebody writes to the image while this reads. */
  writable?: boolean;
}

/** A layer in QED's format over these tables. */
export function qedSource({ storage, header, backing, tables, writable }: QedSourceOptions): Source {
  return new BlockSource({
    format: 'qed',
    storage,
    size: () => header.size,
    blockSize: header.clusterSize,
    tables,
    backing,
    writable,
    // QEMU rounds the file's length up to whole clusters.
    shortLastBlock: true,
    describe: () => describeQed(header),
  });
}

/** What `info` shows. QEMU calls no QED image dirty, whether its need-check bit is set or not. */
function describeQed(header: QedHeader): LayerInfo {
  return { clusterSize: header.clusterSize };
}
