import { ImageError } from '../../core/errors.ts';
import { type Extent, pushExtent, sliceExtent } from '../../core/extent.ts';
import { allSettled } from '../../core/turns.ts';
import type { Descriptor, ExtentAccess, ExtentType } from '../../layouts/vmdk/index.ts';
import type { Storage } from '../../storage/storage.ts';
import { inContext } from '../context.ts';
import type { BackingReference, InfoValue, LayerInfo, Source } from '../source.ts';
import type { ExtentReader } from './readers.ts';

/** One extent of an opened image. */
export interface VmdkExtent {
  access: ExtentAccess;
  /** As the descriptor has it; null where the extent is the image itself. */
  type: ExtentType | null;
  /** Null for ZERO. */
  storage: Storage | null;
  reader: ExtentReader;
  /** Bytes of a grain; null where there are none. */
  grainBytes: number | null;
  compressed: boolean;
}

export interface VmdkImageOptions {
  storage: Storage;
  /** What `info` calls it. */
  createType: string;
  descriptor: Descriptor;
  extents: readonly VmdkExtent[];
}

/** A VMDK image, read only: its extents, one behind the other. */
export class VmdkImage implements Source {
  readonly format = 'vmdk';
  readonly name: string;
  readonly storage: Storage;
  readonly backing: BackingReference | null;
  readonly granularity: number;
  readonly size: number;
  readonly descriptor: Descriptor;
  readonly extents: readonly VmdkExtent[];
  readonly createType: string;
  /** Where each extent begins. */
  readonly #starts: number[] = [];

  constructor({ storage, createType, descriptor, extents }: VmdkImageOptions) {
    this.name = storage.name;
    this.storage = storage;
    this.createType = createType;
    this.descriptor = descriptor;
    this.extents = extents;
    // A parent of a VMDK is always one.
    this.backing = descriptor.parent === null ? null : { filename: descriptor.parent, format: 'vmdk' };
    this.granularity = this.#grainBytes() ?? 1;
    let size = 0;
    for (const { reader } of extents) {
      this.#starts.push(size);
      size += reader.size;
    }
    if (size > Number.MAX_SAFE_INTEGER) {
      throw new ImageError('corrupt', 'Could not refresh total sector count: File too large');
    }
    this.size = size;
  }

  async map(offset: number, length: number): Promise<Extent[]> {
    const list: Extent[] = [];
    const index = this.#indexAt(offset);
    const { reader } = this.extents[index];
    const start = this.#starts[index];
    try {
      for (const each of await reader.map(offset - start, Math.min(length, start + reader.size - offset))) {
        each.offset += start;
        each.layer = this;
        pushExtent(list, each);
      }
    } catch (error) {
      throw inContext(error, this.name, this.format);
    }
    return list;
  }

  async read(offset: number, buffer: Buffer): Promise<void> {
    const reads: Promise<void>[] = [];
    for (let at = 0; at < buffer.length; ) {
      const index = this.#indexAt(offset + at);
      const inside = offset + at - this.#starts[index];
      const { reader } = this.extents[index];
      const length = Math.min(buffer.length - at, reader.size - inside);
      reads.push(reader.read(inside, buffer.subarray(at, at + length)));
      at += length;
    }
    await this.#settled(reads);
  }

  async readMany(extents: readonly Extent[], buffers: readonly Buffer[]): Promise<void> {
    const parts = new Map<number, { extents: Extent[]; buffers: Buffer[] }>();
    extents.forEach((each, at) => {
      for (let offset = each.offset; offset < each.offset + each.length; ) {
        const index = this.#indexAt(offset);
        const start = this.#starts[index];
        const length = Math.min(each.offset + each.length, start + this.extents[index].reader.size) - offset;
        const part = parts.get(index) ?? { extents: [], buffers: [] };
        parts.set(index, part);
        part.extents.push({ ...sliceExtent(each, offset, length), offset: offset - start });
        part.buffers.push(buffers[at].subarray(offset - each.offset, offset - each.offset + length));
        offset += length;
      }
    });
    await this.#settled([...parts].map(([index, part]) => readParts(this.extents[index].reader, part)));
  }

  async describe(): Promise<LayerInfo> {
    const { cid, parentCid } = this.descriptor;
    return {
      clusterSize: this.#grainBytes() ?? undefined,
      formatSpecific: {
        type: 'vmdk',
        data: {
          cid,
          'parent-cid': parentCid,
          'create-type': this.createType,
          extents: this.extents.filter(({ storage }) => storage !== null).map(extentInfo),
        },
      },
    };
  }

  /**
   * A parent that was written to since is not what this layer was made upon: its CID tells (Virtual Disk Format 5.0, "The
   * Descriptor File"). QEMU opens such a chain and fails where it reads through it.
   */
  checkBacking(below: Source): void {
    const { parentCid } = this.descriptor;
    if (below instanceof VmdkImage && below.descriptor.cid === parentCid) return;
    const found = below instanceof VmdkImage ? `its CID is ${below.descriptor.cid.toString(16)}` : 'it is no VMDK';
    throw new ImageError(
      'corrupt',
      `'${below.name}' is not the parent that '${this.name}' was made upon, or was changed since: ` +
        `${found}, not ${parentCid.toString(16)}`,
      { file: this.name, format: this.format, operation: 'open' },
    );
  }

  async allocatedBytes(): Promise<number | null> {
    const storages = new Set([this.storage, ...this.extents.map(({ storage }) => storage)]);
    let total = 0;
    for (const storage of storages) total += (await storage?.allocatedBytes()) ?? 0;
    return total;
  }

  /** Closes the extents' files; the image's own is its opener's. */
  async close(): Promise<void> {
    await closeExtents(this.extents, this.storage);
  }

  async #settled(reads: readonly Promise<void>[]): Promise<void> {
    try {
      await allSettled(reads);
    } catch (error) {
      throw inContext(error, this.name, this.format);
    }
  }

  /** QEMU tells a cluster size only where all extents have the same. */
  #grainBytes(): number | null {
    const sizes = new Set(this.extents.map(({ grainBytes }) => grainBytes));
    return sizes.size === 1 ? (this.extents[0].grainBytes ?? null) : null;
  }

  /** The extent that holds a guest offset inside the disk. */
  #indexAt(offset: number): number {
    let low = 0;
    let high = this.#starts.length - 1;
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (this.#starts[middle] <= offset) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}

async function readParts(reader: ExtentReader, { extents, buffers }: { extents: Extent[]; buffers: Buffer[] }) {
  if (reader.readMany !== undefined) return reader.readMany(extents, buffers);
  await allSettled(extents.map(({ offset }, index) => reader.read(offset, buffers[index])));
}

function extentInfo({ type, storage, reader, grainBytes, compressed }: VmdkExtent): { [key: string]: InfoValue } {
  const info: { [key: string]: InfoValue } = {};
  if (compressed) info.compressed = true;
  info['virtual-size'] = reader.size;
  info.filename = storage?.name ?? '';
  if (grainBytes !== null) info['cluster-size'] = grainBytes;
  info.format = type ?? '';
  return info;
}

/** Closes all files but the image's own; the first failure is thrown at the end. */
export async function closeExtents(extents: readonly Pick<VmdkExtent, 'storage'>[], own: Storage): Promise<void> {
  const storages = new Set(extents.map(({ storage }) => storage));
  const closing = [...storages].filter((storage) => storage !== null && storage !== own);
  await allSettled(closing.map(async (storage) => storage?.close()));
}
