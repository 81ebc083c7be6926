import { ImageError } from '../core/errors.ts';
import { tracePoint } from '../core/trace.ts';
import { drivers as allDrivers } from '../formats/index.ts';
import { hasProtocol } from '../sources/filename.ts';
import { type OpenedImage, openImage } from '../sources/open.ts';
import type { InfoValue, SnapshotInfo } from '../sources/source.ts';
import type { Storage } from '../storage/storage.ts';
import { displayName } from './display-name.ts';
import { nodeOf } from './node.ts';
import type { ImageReference, VerbOptions } from './reference.ts';

/** What an image is: QAPI's `ImageInfo`, in camel case. Sizes in bytes. */
export interface ImageInfo {
  filename: string;
  format: string;
  virtualSize: number;
  /** Disk space in use; null where the storage can't tell. */
  actualSize: number | null;
  /** True if the image was not closed; null where QEMU's driver says nothing about it. */
  dirty: boolean | null;
  clusterSize: number | null;
  encrypted: boolean;
  compressed: boolean;
  /** As the image's header has it. */
  backingFilename: string | null;
  /** The same relative to where the program runs; null where it can't be told. */
  fullBackingFilename: string | null;
  backingFormat: string | null;
  snapshots: SnapshotInfo[];
  formatSpecific: { type: string; data: { [key: string]: InfoValue } } | null;
}

export interface InfoOptions extends VerbOptions {
  image: ImageReference;
  /** Follow the chain: an entry for each backing file too. */
  backingChain?: boolean;
}

const traceInfo = tracePoint('info_layer');

/**
 * Describes an image, and with `backingChain` what lies beneath it: `qemu-img info`. Backing files are not opened
 * otherwise. Rejects with an ImageError; `refused` for a chain that loops.
 */
export async function info(options: InfoOptions): Promise<ImageInfo[]> {
  const infos: ImageInfo[] = [];
  const seen = new Set<string>();
  let next: ImageReference | null = options.image;
  while (next !== null) {
    options.signal?.throwIfAborted();
    const name: string = next.filename;
    if (seen.has(name)) {
      throw new ImageError('refused', `Backing file '${name}' creates an infinite loop.`, { file: name });
    }
    seen.add(name);
    const described: ImageInfo = await describe(next, options);
    infos.push(described);
    next = options.backingChain === true ? backingOf(described) : null;
  }
  return infos;
}

function backingOf({ fullBackingFilename, backingFormat }: ImageInfo): ImageReference | null {
  return fullBackingFilename === null ? null : { filename: fullBackingFilename, format: backingFormat };
}

async function describe(reference: ImageReference, options: InfoOptions): Promise<ImageInfo> {
  const { drivers = allDrivers(), implicit, secrets, forceShare } = options;
  const node = nodeOf(reference);
  const image = await openImage(node, {
    drivers,
    implicit,
    secrets,
    forceShare,
    backing: false,
    metadataOnly: true,
    containers: true,
  });
  try {
    return await describeOpened(image, displayName(node));
  } finally {
    await image.close();
  }
}

async function describeOpened({ source, storage }: OpenedImage, filename: string): Promise<ImageInfo> {
  const layer = await source.describe();
  const { backing } = source;
  if (traceInfo.enabled) traceInfo.emit({ file: filename, format: source.format, size: source.size });
  return {
    filename,
    format: source.format,
    virtualSize: source.size,
    actualSize: await (source.allocatedBytes?.() ?? storage.allocatedBytes()),
    dirty: layer.dirty === undefined ? false : layer.dirty,
    clusterSize: layer.clusterSize ?? null,
    encrypted: layer.encrypted ?? false,
    compressed: layer.compressed ?? false,
    backingFilename: backing?.filename ?? null,
    fullBackingFilename: backing === null ? null : fullName(backing.filename, storage),
    backingFormat: backing?.format ?? null,
    snapshots: layer.snapshots ?? [],
    formatSpecific: layer.formatSpecific ?? null,
  };
}

/** A reference inside an image, relative to where the program runs; what names a protocol already is. */
function fullName(reference: string, from: Storage): string {
  return hasProtocol(reference) ? reference : from.resolve(reference);
}
