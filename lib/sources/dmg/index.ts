import { ensure, ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import {
  blockTablesOf,
  ChunkCollector,
  type ChunkTable,
  type DmgTrailer,
  decodeTrailer,
  type FileRange,
  findTrailer,
  isMish,
  resourcesOf,
  TRAILER_BYTES,
  trailerWindow,
} from '../../layouts/dmg/index.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';
import { inContext } from '../context.ts';
import { refuseBeyondReading } from '../read-only.ts';
import type { SourceRequest } from '../source.ts';
import { DmgSource } from './source.ts';

const FORMAT = 'dmg';
/** Both are in memory at once while they are read. A terabyte in chunks of a MiB takes 56 MB. */
const MAX_TABLES_BYTES = 128 * 1024 * 1024;

const traceOpen = tracePoint('dmg_open');

/**
 * Opens a UDIF image. Checksums are not verified: they cover whole partitions, which nobody wants to read for a
 * look at one sector. Throws an ImageError with file, format and, where it has one, offset.
 */
export async function openDmg(request: SourceRequest): Promise<DmgSource> {
  const { storage } = request;
  try {
    refuseBeyondReading(FORMAT, request);
    const trailer = await readTrailer(storage);
    const table = await readTables(storage, trailer);
    if (traceOpen.enabled) traceOpen.emit({ file: storage.name, size: trailer.size, chunks: table.count });
    return new DmgSource(storage, trailer.size, table);
  } catch (error) {
    throw inContext(error, storage.name, FORMAT);
  }
}

async function readTrailer(storage: Storage): Promise<DmgTrailer> {
  const { offset, length } = trailerWindow(storage.size);
  const window = Buffer.alloc(length);
  await readPadded(storage, offset, window);
  const start = offset + findTrailer(window);
  const trailer = Buffer.alloc(TRAILER_BYTES);
  await readPadded(storage, start, trailer);
  return decodeTrailer(trailer, start);
}

/** From the resource fork, where there is one: a property list beside it says the same. */
async function readTables(storage: Storage, trailer: DmgTrailer): Promise<ChunkTable> {
  const { resourceFork, plist, dataForkOffset } = trailer;
  const chunks = new ChunkCollector();
  const add = (resource: Buffer) => {
    if (isMish(resource)) chunks.add(resource, dataForkOffset);
  };
  if (resourceFork.length > 0) {
    for (const resource of resourcesOf(await readRange(storage, resourceFork))) add(resource);
  } else {
    ensure(plist.length > 0, 'The image has neither a resource fork nor a property list');
    blockTablesOf(await readRange(storage, plist), add);
  }
  return chunks.finish();
}

async function readRange(storage: Storage, { offset, length }: FileRange): Promise<Buffer> {
  if (length > MAX_TABLES_BYTES) {
    throw new ImageError('unsupported', 'The tables of the image are larger than 128 MiB', { offset });
  }
  const bytes = Buffer.allocUnsafeSlow(length);
  await storage.read(offset, bytes);
  return bytes;
}
