import { ensure, ImageError } from '../../core/errors.ts';
import type { AnyOptionValues } from '../../core/options.ts';
import { tracePoint } from '../../core/trace.ts';
import {
  BAT_ENTRY_BYTES,
  HEADER_BYTES,
  type ParallelsHeader,
  parallelsGeometry,
  readBatEntry,
  UNALLOCATED,
} from '../../layouts/parallels/index.ts';
import { inContext } from '../../sources/context.ts';
import { hasBindingFeature } from '../../sources/parallels/extension.ts';
import { readParallelsHeader, refuseInUse } from '../../sources/parallels/index.ts';
import { preallocationOf } from '../../sources/parallels/runtime-options.ts';
import type { SourceRequest } from '../../sources/source.ts';
import type { Storage } from '../../storage/storage.ts';
import { BlockTarget } from '../blocks/target.ts';
import { startNewFile } from '../new-file.ts';
import type { Target } from '../target.ts';
import { newParallelsHeader } from './options.ts';
import { ParallelsStore } from './store.ts';

const traceCreate = tracePoint('parallels_create');
const traceOpen = tracePoint('parallels_open_target');

/** The BAT is looked through in pieces of this many bytes. */
const PIECE_BYTES = 1024 * 1024;

export interface ParallelsCreateRequest {
  storage: Storage;
  /** Guest size in bytes. */
  size: number;
  /** Values of `parallelsCreateOptions`. */
  options: AnyOptionValues;
}

/** Makes a new image and returns it open for writing. The header stays empty until `close`. */
export async function createParallels({ storage, size, options }: ParallelsCreateRequest): Promise<Target> {
  const header = newParallelsHeader(options, size);
  const end = parallelsGeometry(header).dataStart;
  if (storage.fixedSize && storage.size < end) {
    throw new ImageError('no-space', 'No space left on device', {
      file: storage.name,
      format: 'parallels',
      code: 'ENOSPC',
    });
  }
  await startNewFile(storage, options, 'parallels');
  if (traceCreate.enabled) traceCreate.emit({ file: storage.name, sectors: header.sectors, tracks: header.tracks });
  await storage.zero(0, end, { unmap: true });
  return new BlockTarget(new ParallelsStore({ storage, header, fresh: true, end, preallocation: null }));
}

/** Opens an existing image for writing. */
export async function openParallelsTarget({ storage, options }: SourceRequest): Promise<Target> {
  try {
    const header = await readParallelsHeader(storage);
    const preallocation = preallocationOf(options);
    refuseInUse(header);
    checkPlaces(storage, header);
    await refuseBindingExtension(storage, header);
    const end = await usedEnd(storage, header);
    if (traceOpen.enabled) traceOpen.emit({ file: storage.name, end, tracks: header.tracks });
    return new BlockTarget(new ParallelsStore({ storage, header, fresh: false, end, preallocation }));
  } catch (error) {
    throw inContext(error, storage.name, 'parallels');
  }
}

/** What reading forgives: a BAT that is cut off, too short, or has the data area inside. */
function checkPlaces(storage: Storage, header: ParallelsHeader): void {
  const { batEnd, dataStart } = parallelsGeometry(header);
  ensure(batEnd <= storage.size, 'The BAT is cut off by the end of the file');
  ensure(header.entries * header.tracks >= header.sectors, 'The BAT is too short for the disk', { offset: 32 });
  ensure(dataStart >= batEnd, 'The data area begins inside the BAT', { offset: 48 });
}

async function refuseBindingExtension(storage: Storage, header: ParallelsHeader): Promise<void> {
  if (header.extensionSector === 0 || !(await hasBindingFeature(storage, header))) return;
  throw new ImageError('unsupported', 'The Format Extension has features that a writer must keep up to date');
}

/**
 * Where new clusters may lie: behind all that the BAT refers to, which may lie past the end of the file, and in a file
 * also behind its end. A device's end says nothing.
 */
async function usedEnd(storage: Storage, header: ParallelsHeader): Promise<number> {
  const geometry = parallelsGeometry(header);
  const { batEnd, clusterSize, dataStart } = geometry;
  let end = storage.fixedSize ? dataStart : Math.max(dataStart, storage.size);
  const piece = Buffer.alloc(Math.min(PIECE_BYTES, batEnd - HEADER_BYTES));
  for (let at = HEADER_BYTES; at < batEnd; at += piece.length) {
    const part = piece.subarray(0, Math.min(piece.length, batEnd - at));
    await storage.read(at, part);
    for (let index = 0; index * BAT_ENTRY_BYTES < part.length; index += 1) {
      const host = readBatEntry(part, index, geometry);
      if (host !== UNALLOCATED) end = Math.max(end, host + clusterSize);
    }
  }
  ensure(end <= Number.MAX_SAFE_INTEGER, 'A cluster lies past the end of any file');
  return end;
}
