import { alignUp } from '../core/binary.ts';
import { ImageError } from '../core/errors.ts';
import { type Extent, extent, pushExtent } from '../core/extent.ts';
import { defineOptions, parseOptions } from '../core/options.ts';
import { readPadded, type Storage } from '../storage/storage.ts';
import { refuseUnknownOptions } from './node-options.ts';
import type { LayerInfo, Source, SourceRequest } from './source.ts';

/** Disks have whole sectors: the last one of a ragged file is filled up with zeros. */
export const SECTOR = 512;

const runtimeOptions = defineOptions({
  offset: { type: 'size', help: 'where in the file the disk begins' },
  size: { type: 'size', help: 'size of the disk' },
});

/** Which part of a storage is the disk. */
export interface RawWindow {
  offset: number;
  size: number;
  /** The size was given, not found: the disk cannot be resized. */
  fixed: boolean;
}

/** A file's bytes as a disk. */
export async function openRaw({ storage, options }: Pick<SourceRequest, 'storage' | 'options'>): Promise<RawSource> {
  return new RawSource(storage, rawWindow(storage, options));
}

/** Checks the driver's `offset` and `size` against the file, in qemu-img's words. */
export function rawWindow(storage: Storage, options: SourceRequest['options']): RawWindow {
  refuseUnknownOptions('raw', options, Object.keys(runtimeOptions));
  const { offset = 0, size } = parseOptions(runtimeOptions, options);
  const available = alignUp(storage.size, SECTOR);
  const refuse = (message: string) => new ImageError('invalid', message, { file: storage.name, format: 'raw' });
  if (offset > available) {
    throw refuse(`Offset (${offset}) cannot be greater than size of the containing file (${available})`);
  }
  // QEMU's words, its two spaces included.
  if (size !== undefined && offset + size > available) {
    throw refuse(
      `The sum of offset (${offset}) and size (${size}) has to be smaller or equal to the ` +
        ` actual size of the containing file (${available})`,
    );
  }
  if (size !== undefined && size % SECTOR !== 0) throw refuse(`Specified size is not multiple of ${SECTOR}`);
  return { offset, size: size ?? alignUp(available - offset, SECTOR), fixed: size !== undefined };
}

/** What lies in the file is data, holes are zeros, and beyond the file's end the disk reads as zeros. */
export class RawSource implements Source {
  readonly format = 'raw';
  readonly backing = null;
  readonly granularity = 1;
  readonly name: string;
  readonly storage: Storage;
  /** Changed by the target that shares it, when the disk is resized. */
  readonly window: RawWindow;

  constructor(storage: Storage, window: RawWindow) {
    this.name = storage.name;
    this.storage = storage;
    this.window = window;
  }

  get size(): number {
    return this.window.size;
  }

  async map(offset: number, length: number): Promise<Extent[]> {
    const start = this.window.offset;
    const list: Extent[] = [];
    for (const range of await this.storage.holes(start + offset, length)) {
      const one = extent(range.offset - start, range.length, range.hole ? 'zero' : 'data');
      one.layer = this;
      one.host = this.storage;
      one.hostOffset = range.offset;
      pushExtent(list, one);
    }
    return list;
  }

  read(offset: number, buffer: Buffer): Promise<void> {
    return readPadded(this.storage, this.window.offset + offset, buffer);
  }

  async describe(): Promise<LayerInfo> {
    return {};
  }

  async close(): Promise<void> {}
}
