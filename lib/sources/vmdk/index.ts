import { ensure, ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import {
  checkVolatileHeader,
  DESCRIPTOR_SECTOR,
  DESCRIPTOR_SECTORS,
  type Descriptor,
  decodeCowdHeader,
  decodeSeSparseHeader,
  decodeSparseHeader,
  descriptorText,
  type ExtentLine,
  hasCowdMagic,
  hasSparseMagic,
  isCompressed,
  MAX_DESCRIPTOR_BYTES,
  NO_CID,
  parseDescriptor,
  parseExtents,
  SECTOR,
  type SparseHeader,
} from '../../layouts/vmdk/index.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';
import { inContext } from '../context.ts';
import { refuseUnknownOptions } from '../node-options.ts';
import type { FileRole } from '../sharing.ts';
import type { SourceRequest } from '../source.ts';
import { readFooter } from './footer.ts';
import { closeExtents, type VmdkExtent, VmdkImage } from './image.ts';
import { cowdReader, FlatReader, seSparseReader, sparseReader, ZeroReader } from './readers.ts';

export { VmdkImage } from './image.ts';

const traceOpen = tracePoint('vmdk_open');

/** The kinds of images that have their descriptor in a file of its own; others are not known to QEMU either. */
const DESCRIPTOR_TYPES: readonly (string | null)[] = [
  'monolithicFlat',
  'twoGbMaxExtentFlat',
  'twoGbMaxExtentSparse',
  'vmfs',
  'vmfsSparse',
  'seSparse',
];

/** Opens a VMDK image, all its extents included. Throws an ImageError with file, format and, where it has one, offset. */
export async function openVmdk(request: SourceRequest): Promise<VmdkImage> {
  const { storage } = request;
  try {
    refuseUnknownOptions('vmdk', request.options, []);
    const image = await open(request);
    if (traceOpen.enabled)
      traceOpen.emit({ file: storage.name, type: image.createType, extents: image.extents.length });
    return image;
  } catch (error) {
    throw inContext(error, storage.name, 'vmdk');
  }
}

/** What an image's own file says of it. */
export interface VmdkHead {
  createType: string;
  descriptor: Descriptor;
  /** The descriptor, and where it lies: as it is to be written back. */
  text: string;
  place: { offset: number; bytes: number } | null;
  /** The extents that are other files; null: the image is its own one extent. */
  lines: ExtentLine[] | null;
}

async function open(request: SourceRequest): Promise<VmdkImage> {
  const { storage } = request;
  const head = await readVmdkHead(storage);
  const { createType, descriptor, lines } = head;
  const extents = lines === null ? [await openExtent(storage, null)] : await openExtents(request, lines);
  return new VmdkImage({ storage, createType, descriptor, extents });
}

/** Reads what the image's own file says: the descriptor, alone or embedded. */
export async function readVmdkHead(storage: Storage): Promise<VmdkHead> {
  const first = await readSector(storage, 0);
  if (hasSparseMagic(first)) return sparseHead(storage, decodeSparseHeader(first));
  // An ESX extent has no descriptor with it: what there is of a disk is in it.
  if (hasCowdMagic(first)) {
    const descriptor = { createType: 'vmfsSparse', cid: NO_CID, parentCid: NO_CID, parent: null };
    return { createType: 'vmfsSparse', descriptor, text: '', place: null, lines: null };
  }
  const bytes = Math.min(storage.size, MAX_DESCRIPTOR_BYTES);
  return { ...(await descriptorHead(storage, { offset: 0, bytes })) };
}

async function sparseHead(storage: Storage, header: SparseHeader): Promise<VmdkHead> {
  // QEMU looks for the descriptor in the second sector, whatever the header says.
  const sector = header.descriptorSector || DESCRIPTOR_SECTOR;
  const sectors = header.descriptorSectors || DESCRIPTOR_SECTORS;
  const place = { offset: sector * SECTOR, bytes: Math.min(sectors * SECTOR, MAX_DESCRIPTOR_BYTES) };
  ensure(place.offset < storage.size, 'The descriptor lies past the end of the file', { offset: place.offset });
  const text = await readText(storage, place);
  const descriptor = parseDescriptor(text);
  if (header.capacity === 0 && DESCRIPTOR_TYPES.includes(descriptor.createType)) return descriptorHead(storage, place);
  const createType = isCompressed(header) ? 'streamOptimized' : 'monolithicSparse';
  return { createType, descriptor, text, place, lines: null };
}

async function descriptorHead(storage: Storage, place: { offset: number; bytes: number }): Promise<VmdkHead> {
  const text = await readText(storage, place);
  const createType = /^[ \t]*createType[ \t]*=[ \t]*"([^"\n]*)"/m.exec(text)?.[1];
  if (createType === undefined) throw new ImageError('corrupt', 'invalid VMDK image descriptor');
  if (!DESCRIPTOR_TYPES.includes(createType)) {
    throw new ImageError('unsupported', `Unsupported image type '${createType}'`);
  }
  return { createType, descriptor: parseDescriptor(text), text, place, lines: parseExtents(text) };
}

async function readText(storage: Storage, { offset, bytes }: { offset: number; bytes: number }): Promise<string> {
  const raw = Buffer.alloc(Math.min(bytes, Math.max(0, storage.size - offset)));
  await storage.read(offset, raw);
  return descriptorText(raw);
}

async function readSector(storage: Storage, offset: number): Promise<Buffer> {
  const sector = Buffer.alloc(SECTOR);
  await readPadded(storage, offset, sector);
  return sector;
}

async function openExtents(request: SourceRequest, lines: readonly ExtentLine[]): Promise<VmdkExtent[]> {
  const extents: VmdkExtent[] = [];
  try {
    for (const line of lines) extents.push(await openLine(request, line));
    return extents;
  } catch (error) {
    await closeExtents(extents, request.storage).catch(() => {});
    throw error;
  }
}

async function openLine(
  { storage, gate, writable, metadataOnly }: SourceRequest,
  line: ExtentLine,
): Promise<VmdkExtent> {
  const { access, filename } = line;
  if (access === 'NOACCESS' && metadataOnly !== true) {
    throw new ImageError('unsupported', 'The image has an extent that may not be accessed (NOACCESS)');
  }
  if (filename === null) return openExtent(null, line);
  const file = await gate.openStorage(filename, storage, {
    writable: writable && access === 'RW',
    role: roleOfExtent(line),
  });
  try {
    return await openExtent(file, line);
  } catch (error) {
    await file.close().catch(() => {});
    throw inContext(error, file.name, 'vmdk');
  }
}

/** What the file of an extent has of the image, for its locks. */
export function roleOfExtent({ type }: ExtentLine): FileRole {
  return type === 'FLAT' || type === 'VMFS' ? 'data' : 'structure';
}

/** @param line null: the extent is the image itself */
async function openExtent(storage: Storage | null, line: ExtentLine | null): Promise<VmdkExtent> {
  const { access = 'RW', type = null, sectors = 0, offset = 0 } = line ?? {};
  const common = { access, type, storage, grainBytes: null, compressed: false };
  const size = sectors * SECTOR;
  if (storage === null) return { ...common, reader: new ZeroReader(size) };
  if (type === 'FLAT' || type === 'VMFS') {
    return { ...common, reader: new FlatReader(storage, offset * SECTOR, size) };
  }
  if (type === 'SESPARSE') {
    const header = decodeSeSparseHeader(await readSector(storage, 0));
    checkVolatileHeader(await readSector(storage, header.volatileHeader * SECTOR));
    return { ...common, reader: await seSparseReader(storage, header), grainBytes: header.grainSectors * SECTOR };
  }
  const first = await readSector(storage, 0);
  if (hasCowdMagic(first)) {
    const header = decodeCowdHeader(first);
    return { ...common, reader: await cowdReader(storage, header), grainBytes: header.grainSectors * SECTOR };
  }
  const header = await readSparseHeader(storage, first);
  return {
    ...common,
    reader: await sparseReader(storage, header),
    grainBytes: header.grainSectors * SECTOR,
    compressed: isCompressed(header),
  };
}

/** The header that counts, and whether that is the footer's copy. */
export type FoundHeader = SparseHeader & { directory: number; inFooter: boolean };

/** Reads the header, or the footer where the header refers to it. */
export async function readSparseHeader(storage: Storage, first?: Buffer): Promise<FoundHeader> {
  const head = decodeSparseHeader(first ?? (await readSector(storage, 0)));
  const atLeast = head.overhead * SECTOR;
  ensure(storage.size >= atLeast, `File truncated, expecting at least ${atLeast} bytes`);
  const header = head.directory === null ? await readFooter(storage) : head;
  ensure(header.directory !== null, 'The footer does not tell where the grain directory is');
  return { ...header, directory: header.directory, inFooter: head.directory === null };
}
