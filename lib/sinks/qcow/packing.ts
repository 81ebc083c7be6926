import { deflateRaw, inflateRaw } from '../../core/codecs.ts';
import { ImageError } from '../../core/errors.ts';
import { decodeCompressed, encodeCompressed, maxCompressedOffset, TABLE_ENTRY } from '../../layouts/qcow.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';
import type { BlockStore, TablePage } from '../blocks/store.ts';
import type { PinnedPage } from '../blocks/tables.ts';

/** The window that readers are required to keep is one of 4 KiB. */
const WINDOW_BITS = 12;

export interface QcowPackingOptions {
  storage: Storage;
  clusterBits: number;
  /** Takes so many bytes at the end of the file. */
  take(length: number): number;
}

/** Compressed clusters: raw deflate, one behind the other at the end of the file. */
export class QcowPacking implements NonNullable<BlockStore['packing']> {
  readonly #options: QcowPackingOptions;

  constructor(options: QcowPackingOptions) {
    this.#options = options;
  }

  async compress(plain: Buffer): Promise<Buffer | null> {
    const packed = await deflateRaw(plain, { windowBits: WINDOW_BITS });
    return packed.length < plain.length ? packed : null;
  }

  async reserve(length: number): Promise<number> {
    const { storage, clusterBits, take } = this.#options;
    const host = take(length);
    if (host + length <= maxCompressedOffset(clusterBits)) return host;
    throw new ImageError('no-space', 'Compressed clusters can lie no farther out in a file', {
      file: storage.name,
      format: 'qcow',
      offset: host,
    });
  }

  link(page: TablePage, block: number, host: number, length: number): void {
    const { page: held, first } = page as PinnedPage;
    const { clusterBits } = this.#options;
    encodeCompressed(held.bytes, (block - first) * TABLE_ENTRY, { host, packedLength: length, clusterBits });
    held.dirty = true;
  }

  async unpack(page: TablePage, block: number): Promise<Buffer> {
    const { page: held, first } = page as PinnedPage;
    const { storage, clusterBits } = this.#options;
    const { host, packedLength } = decodeCompressed(held.bytes, (block - first) * TABLE_ENTRY, clusterBits);
    const packed = Buffer.alloc(packedLength);
    await readPadded(storage, host, packed);
    return inflateRaw(packed, 2 ** clusterBits);
  }
}
