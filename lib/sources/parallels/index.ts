import { ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import {
  decodeParallelsHeader,
  HEADER_BYTES,
  InUse,
  type ParallelsHeader,
  parallelsGeometry,
  SECTOR,
} from '../../layouts/parallels/index.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';
import { BlockSource } from '../block-source.ts';
import type { BlockTables } from '../block-table.ts';
import { CachedTables } from '../cached-tables.ts';
import { inContext } from '../context.ts';
import type { Source, SourceRequest } from '../source.ts';
import { readBitmaps } from './extension.ts';
import { preallocationOf } from './runtime-options.ts';
import { parallelsShape } from './shape.ts';

export { type DirtyRange, dirtyRanges, type ParallelsBitmap, readBitmaps } from './extension.ts';

const traceOpen = tracePoint('parallels_open');

/** Opens a Parallels image for reading. Throws an ImageError with file, format and, where it has one, offset. */
export async function openParallels({ storage, options, writable, forCheck }: SourceRequest): Promise<Source> {
  try {
    const header = await readParallelsHeader(storage);
    preallocationOf(options);
    if (traceOpen.enabled) traceOpen.emit({ file: storage.name, sectors: header.sectors, extended: header.extended });
    if (writable && forCheck !== true) refuseInUse(header);
    // A writer drops the extension, so it may be whatever it is.
    if (!writable) await readBitmaps(storage, header);
    return parallelsSource({ storage, header, tables: new CachedTables(storage, parallelsShape(storage, header)) });
  } catch (error) {
    throw inContext(error, storage.name, 'parallels');
  }
}

/** Reads and checks the header. */
export async function readParallelsHeader(storage: Storage): Promise<ParallelsHeader> {
  const head = Buffer.alloc(HEADER_BYTES);
  await readPadded(storage, 0, head);
  return decodeParallelsHeader(head);
}

/** An image that somebody writes to, or that a crash has left so, is only read. */
export function refuseInUse({ inUse }: ParallelsHeader): void {
  if (inUse !== InUse.yes) return;
  throw new ImageError('refused', 'parallels: Image was not closed correctly; cannot be opened read/write');
}

export interface ParallelsSourceOptions {
  storage: Storage;
  header: ParallelsHeader;
  tables: BlockTables;
  /** Somebody writes to the image while this reads. */
  writable?: boolean;
}

/** A layer in Parallels' format over this BAT. */
export function parallelsSource({ storage, header, tables, writable }: ParallelsSourceOptions): Source {
  return new BlockSource({
    format: 'parallels',
    storage,
    size: header.sectors * SECTOR,
    blockSize: parallelsGeometry(header).clusterSize,
    tables,
    writable,
    shortLastBlock: true,
    // QEMU's driver has no information of its own, not even whether the image is dirty.
    describe: () => ({ dirty: null }),
  });
}
