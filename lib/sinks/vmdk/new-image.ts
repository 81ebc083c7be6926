import { alignUp } from '../../core/binary.ts';
import { ImageError } from '../../core/errors.ts';
import type { AnyOptionValues } from '../../core/options.ts';
import {
  DESCRIPTOR_SECTORS,
  type Descriptor,
  type ExtentLine,
  type ExtentType,
  formatDescriptor,
  MAX_DESCRIPTOR_BYTES,
  NO_CID,
  SECTOR,
} from '../../layouts/vmdk/index.ts';
import type { Gate, Source } from '../../sources/source.ts';
import { readVmdkHead } from '../../sources/vmdk/index.ts';
import type { CacheMode, Storage } from '../../storage/storage.ts';
import { newCid } from './cid.ts';
import { checkSettings, quotable, type VmdkSettings } from './options.ts';

export interface VmdkCreateRequest {
  storage: Storage;
  /** Guest size in bytes. */
  size: number;
  /** Values of `vmdkCreateOptions`. */
  options: AnyOptionValues;
  backing: { filename: string; format: string | null; source: Source | null } | null;
  cache: CacheMode;
  gate: Gate;
}

/** What a new image's makers share. */
export interface NewImage {
  request: VmdkCreateRequest;
  settings: VmdkSettings;
  /** Guest bytes, whole sectors. */
  size: number;
  /** The descriptor's text for these extents. */
  text(extents: readonly ExtentLine[]): Buffer;
  descriptor: Descriptor;
}

/** Checks what is asked for, and says what the descriptor will; touches nothing. */
export async function newImage(request: VmdkCreateRequest): Promise<NewImage> {
  const { backing, storage } = request;
  const settings = checkSettings(request.options, backing?.format);
  const size = alignUp(request.size, SECTOR);
  const parent = backing === null ? null : quotable('backing_file', backing.filename);
  const parentCid = backing === null ? NO_CID : await cidOf(backing.filename, request);
  const descriptor = { createType: settings.subformat, cid: newCid(), parentCid, parent };
  const text = (extents: readonly ExtentLine[]) =>
    Buffer.from(formatDescriptor({ ...settings, ...descriptor, extents, capacity: size / SECTOR }));
  const fits = settings.split || settings.flat ? MAX_DESCRIPTOR_BYTES : DESCRIPTOR_SECTORS * SECTOR;
  quotable('file name', storage.name);
  if (text([]).length + storage.name.length > fits) {
    throw new ImageError('invalid', 'The names and options do not fit into the descriptor', { format: 'vmdk' });
  }
  return { request, settings, size, text, descriptor };
}

/** The content ID of the parent: what it is at this moment. */
async function cidOf(filename: string, { gate, storage }: VmdkCreateRequest): Promise<number> {
  const parent = await gate.openStorage(filename, storage);
  try {
    return (await readVmdkHead(parent)).descriptor.cid;
  } finally {
    await parent.close();
  }
}

/** An extent's line in a new descriptor. */
export function lineOf(type: ExtentType, filename: string, size: number): ExtentLine {
  return { access: 'RW', sectors: size / SECTOR, type, filename, offset: 0 };
}

/** The one extent of an image that is one file, as its descriptor names it. */
export function ownLine({ request, size }: NewImage): ExtentLine {
  const { name } = request.storage;
  return lineOf('SPARSE', name.slice(name.lastIndexOf('/') + 1), size);
}
