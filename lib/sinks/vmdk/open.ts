import { ensure, ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import { type ExtentLine, hasRedundantTables, isCompressed, SECTOR, tablesFor } from '../../layouts/vmdk/index.ts';
import { inContext } from '../../sources/context.ts';
import type { Source, SourceRequest } from '../../sources/source.ts';
import { readDirectory } from '../../sources/vmdk/grain-shape.ts';
import { type VmdkExtent, VmdkImage } from '../../sources/vmdk/image.ts';
import { readSparseHeader, readVmdkHead, roleOfExtent } from '../../sources/vmdk/index.ts';
import { FlatReader, ZeroReader } from '../../sources/vmdk/readers.ts';
import type { Storage } from '../../storage/storage.ts';
import { BlockTarget } from '../blocks/target.ts';
import type { ClusterCompressor, Target } from '../target.ts';
import { backingFrom } from './backing.ts';
import { newCid, writeCid, writeParentCid } from './cid.ts';
import { plainCompressor, sparseExtent } from './create.ts';
import { flatPart } from './flat-part.ts';
import { SparseStore } from './sparse-store.ts';
import { openStreamOptimized } from './stream-create.ts';
import { type ImagePart, VmdkTarget } from './target.ts';

export interface VmdkOpenRequest extends SourceRequest {
  /** The opened backing chain, for copy-on-write. */
  backing: Source | null;
}

interface OpenedPart {
  part: ImagePart;
  extent: VmdkExtent;
  compressor?: ClusterCompressor;
}

const traceOpen = tracePoint('vmdk_open_target');

/** Opens an existing image for writing, all its extents included. Its first change gives it a new content ID. */
export async function openVmdkTarget(request: VmdkOpenRequest): Promise<Target> {
  try {
    return await openForWriting(request);
  } catch (error) {
    throw inContext(error, request.storage.name, 'vmdk');
  }
}

async function openForWriting(request: VmdkOpenRequest): Promise<Target> {
  const { storage } = request;
  const { createType, descriptor, place, lines } = await readVmdkHead(storage);
  const hasBacking = descriptor.parent !== null;
  const opened = await openParts(request, lines, hasBacking);
  if (traceOpen.enabled) traceOpen.emit({ file: storage.name, type: createType, extents: opened.length });
  const extents = opened.map(({ extent }) => extent);
  return new VmdkTarget({
    storage,
    parts: opened.map(({ part }) => part),
    source: new VmdkImage({ storage, createType, descriptor, extents }),
    fresh: false,
    readsAsZero: false,
    compressor:
      opened.length > 0 && opened.every(({ compressor }) => compressor !== undefined)
        ? opened[0].compressor
        : undefined,
    async begin() {
      if (place === null) return;
      descriptor.cid = newCid();
      await writeCid(storage, place, descriptor.cid);
    },
    async adopt(below) {
      if (place === null || !(below instanceof VmdkImage)) return;
      descriptor.parentCid = below.descriptor.cid;
      await writeParentCid(storage, place, descriptor.parentCid);
      await storage.flush();
    },
  });
}

async function openParts(
  request: VmdkOpenRequest,
  lines: readonly ExtentLine[] | null,
  hasBacking: boolean,
): Promise<OpenedPart[]> {
  const { storage, gate, backing } = request;
  if (lines === null) return [await openSparse(storage, null, { backing, hasBacking })];
  const opened: OpenedPart[] = [];
  let start = 0;
  try {
    for (const line of lines) {
      if (line.access !== 'RW') {
        throw new ImageError('unsupported', `The image has an extent that is ${line.access}: it cannot be written to`);
      }
      opened.push(await openPart(line, { storage, gate, backing: backingFrom(backing, start), hasBacking }));
      start += opened[opened.length - 1].part.size;
    }
    return opened;
  } catch (error) {
    for (const { extent } of opened) await extent.storage?.close().catch(() => {});
    throw error;
  }
}

interface Below {
  backing: ReturnType<typeof backingFrom>;
  hasBacking: boolean;
}

async function openPart(
  line: ExtentLine,
  { storage, gate, ...below }: Pick<VmdkOpenRequest, 'storage' | 'gate'> & Below,
): Promise<OpenedPart> {
  if (line.filename === null) return zeroPart(line);
  const file = await gate.openStorage(line.filename, storage, { writable: true, role: roleOfExtent(line) });
  try {
    if (line.type === 'FLAT' || line.type === 'VMFS') return openFlat(file, line);
    if (line.type === 'SPARSE') return await openSparse(file, line, below);
    throw new ImageError('unsupported', `Extents of type ${line.type} cannot be written to`);
  } catch (error) {
    await file.close().catch(() => {});
    throw inContext(error, file.name, 'vmdk');
  }
}

function openFlat(storage: Storage, { type, offset, sectors }: ExtentLine): OpenedPart {
  const reader = new FlatReader(storage, offset * SECTOR, sectors * SECTOR);
  ensure(
    reader.offset + reader.size <= Math.ceil(storage.size / SECTOR) * SECTOR,
    'An extent ends before the disk does',
  );
  return {
    part: flatPart(reader),
    extent: { access: 'RW', type, storage, reader, grainBytes: null, compressed: false },
  };
}

/** An extent without a file takes zeros only. */
function zeroPart({ access, type, sectors }: ExtentLine): OpenedPart {
  const reader = new ZeroReader(sectors * SECTOR);
  const nothing = async () => {};
  return {
    part: {
      size: reader.size,
      async write(offset, buffer) {
        if (buffer.every((byte) => byte === 0)) return;
        throw new ImageError('no-space', 'Data cannot be written to an extent of type ZERO', { offset });
      },
      zero: nothing,
      discard: nothing,
      flush: nothing,
      close: nothing,
      abort: nothing,
    },
    extent: { access, type, storage: null, reader, grainBytes: null, compressed: false },
  };
}

async function openSparse(storage: Storage, line: ExtentLine | null, below: Below): Promise<OpenedPart> {
  const header = await readSparseHeader(storage);
  if (storage.fixedSize) {
    throw new ImageError('unsupported', 'A sparse extent on a device cannot be written to: its end is not known');
  }
  if (isCompressed(header)) return openStreamOptimized({ storage, header, line, ...below });
  if (header.version === 3) throw new ImageError('unsupported', 'VMDK version 3 must be read only');
  const tables = tablesFor(header);
  const store = new SparseStore({
    ...below,
    storage,
    header,
    directory: await readDirectory(storage, header.directory, tables),
    redundant: hasRedundantTables(header) ? await readDirectory(storage, header.redundantDirectory, tables) : null,
    fresh: false,
  });
  return {
    part: new BlockTarget(store),
    extent: sparseExtent(store, line?.type ?? null),
    compressor: { ...plainCompressor, unit: store.blockSize },
  };
}
