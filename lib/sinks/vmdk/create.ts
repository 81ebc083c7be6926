import { ImageError } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import { type ExtentType, GRAIN_BYTES } from '../../layouts/vmdk/index.ts';
import { type VmdkExtent, VmdkImage } from '../../sources/vmdk/image.ts';
import { FlatReader } from '../../sources/vmdk/readers.ts';
import { BlockTarget } from '../blocks/target.ts';
import { startNewFile } from '../new-file.ts';
import { StreamImpossible } from '../stream.ts';
import type { Target } from '../target.ts';
import { backingFrom } from './backing.ts';
import { flatPart } from './flat-part.ts';
import { type PlannedExtent, planExtents } from './names.ts';
import { lineOf, type NewImage, newImage, ownLine, type VmdkCreateRequest } from './new-image.ts';
import { checkSettings } from './options.ts';
import { newSparseStore, type SparseStore } from './sparse-store.ts';
import { createStreamOptimized } from './stream-create.ts';
import { type ImagePart, makeUnrecognisable, VmdkTarget } from './target.ts';

const traceCreate = tracePoint('vmdk_create');

/**
 * Makes a new image and returns it open for writing. Until `close` its own file has neither header nor descriptor, so that
 * what an interrupted program leaves behind can't be taken for a complete image.
 */
export async function createVmdk(request: VmdkCreateRequest): Promise<Target> {
  const image = await newImage(request);
  const { settings, size } = image;
  if (traceCreate.enabled) traceCreate.emit({ file: request.storage.name, size, subformat: settings.subformat });
  await startNewFile(request.storage, request.options, 'vmdk');
  if (settings.subformat === 'streamOptimized') return createStreamOptimized(image, { forward: false });
  if (settings.subformat === 'monolithicSparse') return createSparse(image);
  return createApart(image);
}

/** Makes a new image in one forward pass: streamOptimized can be, and what is one file through a temporary one. */
export async function createVmdkStream(
  request: Omit<VmdkCreateRequest, 'size'> & { size: number | null },
): Promise<Target> {
  const { size, storage } = request;
  const settings = checkSettings(request.options, request.backing?.format);
  if (settings.subformat !== 'streamOptimized' && settings.subformat !== 'monolithicSparse') {
    throw new ImageError('unsupported', `A ${settings.subformat} image is several files, and can't go into a pipe`, {
      file: storage.name,
      format: 'vmdk',
      operation: 'create',
    });
  }
  if (settings.subformat === 'monolithicSparse') throw new StreamImpossible('its tables precede its data');
  if (size === null) throw new StreamImpossible("the disk's size stands before its data");
  return createStreamOptimized(await newImage({ ...request, size }), { forward: true });
}

async function createSparse(image: NewImage): Promise<Target> {
  const { request, settings, size, descriptor } = image;
  const { storage, backing } = request;
  const store = await newSparseStore({
    storage,
    size,
    zeroGrains: settings.zeroGrains,
    backing: backing?.source ?? null,
    hasBacking: backing !== null,
    descriptor: image.text([ownLine(image)]),
  });
  const source = new VmdkImage({
    storage,
    createType: settings.subformat,
    descriptor,
    extents: [sparseExtent(store, null)],
  });
  return new VmdkTarget({
    storage,
    parts: [new BlockTarget(store)],
    source,
    fresh: true,
    readsAsZero: backing === null,
    compressor: plainCompressor,
  });
}

/** qemu-img takes `-c` for sparse images, and writes plain grains all the same. */
export const plainCompressor = { unit: GRAIN_BYTES, compress: async () => null };

export function sparseExtent(store: SparseStore, type: ExtentType | null): VmdkExtent {
  return {
    access: 'RW',
    type,
    storage: store.storage,
    reader: store.source,
    grainBytes: store.blockSize,
    compressed: false,
  };
}

/** An image whose descriptor is a file, and each extent another. */
async function createApart(image: NewImage): Promise<Target> {
  const { request, settings, size, descriptor } = image;
  const { storage, backing } = request;
  if (storage.path === null) {
    throw new ImageError('unsupported', `A ${settings.subformat} image needs a place for its extents beside it`, {
      file: storage.name,
      format: 'vmdk',
      operation: 'create',
    });
  }
  const planned = planExtents(storage.name, size, settings);
  const text = image.text(planned.map((each) => lineOf(settings.flat ? 'FLAT' : 'SPARSE', each.filename, each.size)));
  const made: { part: ImagePart; extent: VmdkExtent }[] = [];
  let start = 0;
  try {
    for (const each of planned) {
      made.push(await makeExtent(image, each, start));
      start += each.size;
    }
  } catch (error) {
    for (const { extent } of made) await extent.storage?.close({ discard: true }).catch(() => {});
    throw error;
  }
  const extents = made.map(({ extent }) => extent);
  return new VmdkTarget({
    storage,
    parts: made.map(({ part }) => part),
    source: new VmdkImage({ storage, createType: settings.subformat, descriptor, extents }),
    fresh: true,
    readsAsZero: backing === null,
    compressor: settings.flat ? undefined : plainCompressor,
    async complete() {
      await storage.write(0, text);
      await storage.flush();
    },
  });
}

async function makeExtent(
  { request, settings }: NewImage,
  { filename, size }: PlannedExtent,
  start: number,
): Promise<{ part: ImagePart; extent: VmdkExtent }> {
  const { gate, storage, backing } = request;
  const role = settings.flat ? 'data' : 'structure';
  const file = await gate.openStorage(filename, storage, { writable: true, create: true, role });
  try {
    await startNewFile(file, request.options, 'vmdk');
    if (settings.flat) {
      await file.truncate(size);
      const reader = new FlatReader(file, 0, size);
      const extent = {
        access: 'RW',
        type: 'FLAT',
        storage: file,
        reader,
        grainBytes: null,
        compressed: false,
      } as const;
      return { part: flatPart(reader), extent };
    }
    const store = await newSparseStore({
      storage: file,
      size,
      zeroGrains: settings.zeroGrains,
      backing: backingFrom(backing?.source ?? null, start),
      hasBacking: backing !== null,
    });
    return { part: new BlockTarget(store), extent: sparseExtent(store, 'SPARSE') };
  } catch (error) {
    await makeUnrecognisable(file);
    await file.close({ discard: true }).catch(() => {});
    throw error;
  }
}
