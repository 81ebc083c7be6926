import { ImageError } from '../../core/errors.ts';
import { type Extent, type ExtentKind, extent, pushExtent } from '../../core/extent.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';
import type { LayerInfo, Source } from '../source.ts';

/** A fixed disk: its bytes from the file's start on. */
export class FixedSource implements Source {
  readonly format = 'vpc';
  readonly backing = null;
  readonly granularity = 1;
  readonly name: string;
  readonly storage: Storage;
  readonly #size: () => number;
  readonly #dataEnd: () => number;

  /** @param dataEnd where the footer lies: guest bytes that should be there or behind are missing */
  constructor(storage: Storage, size: () => number, dataEnd: () => number) {
    this.name = storage.name;
    this.storage = storage;
    this.#size = size;
    this.#dataEnd = dataEnd;
  }

  get size(): number {
    return this.#size();
  }

  /** As QEMU tells it: all is this layer's, holes of the file too. */
  async map(offset: number, length: number): Promise<Extent[]> {
    const list: Extent[] = [];
    const there = Math.min(length, this.#dataEnd() - offset);
    // What is missing is no zeros: whoever reads it gets the error.
    if (there <= 0) return [this.#part(offset, length, 'data')];
    for (const { offset: at, length: bytes, hole } of await this.storage.holes(offset, there)) {
      const one = this.#part(at, bytes, hole ? 'zero' : 'data');
      one.host = this.storage;
      one.hostOffset = at;
      one.hollow = hole;
      pushExtent(list, one);
    }
    return list;
  }

  #part(offset: number, length: number, kind: ExtentKind): Extent {
    const one = extent(offset, length, kind);
    one.layer = this;
    return one;
  }

  async read(offset: number, buffer: Buffer): Promise<void> {
    if (offset + buffer.length > this.#dataEnd()) {
      throw new ImageError('corrupt', 'The file ends before the data that should be there', {
        file: this.name,
        format: this.format,
        operation: 'read',
        offset,
      });
    }
    // A new file may not have its full length yet.
    await readPadded(this.storage, offset, buffer);
  }

  async describe(): Promise<LayerInfo> {
    return {};
  }

  async close(): Promise<void> {}
}
