import { alignDown, alignUp } from '../../core/binary.ts';
import { ImageError } from '../../core/errors.ts';
import { type Extent, extent } from '../../core/extent.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';
import type { LayerInfo, Source } from '../source.ts';
import type { LuksContainer } from './container.ts';

/** The decrypted payload of a container. There are no holes: what reads as zeros was encrypted as any other data. */
export class LuksSource implements Source {
  readonly format = 'luks';
  readonly backing = null;
  readonly name: string;
  readonly storage: Storage;
  readonly granularity: number;
  readonly container: LuksContainer;
  readonly #size: () => number;

  /** @param size of the disk in bytes: the target that shares this source may change it */
  constructor(storage: Storage, container: LuksContainer, size: () => number) {
    this.name = storage.name;
    this.storage = storage;
    this.container = container;
    this.granularity = container.sectorSize;
    this.#size = size;
  }

  get size(): number {
    return this.#size();
  }

  async map(offset: number, length: number): Promise<Extent[]> {
    const one = extent(offset, length, 'data');
    one.layer = this;
    return [one];
  }

  async read(offset: number, buffer: Buffer): Promise<void> {
    const { sectorSize } = this.container;
    const start = alignDown(offset, sectorSize);
    const end = alignUp(offset + buffer.length, sectorSize);
    if (end - start === buffer.length) return this.#readSectors(offset, buffer);
    const sectors = Buffer.allocUnsafe(end - start);
    await this.#readSectors(start, sectors);
    sectors.copy(buffer, 0, offset - start);
  }

  /** Of a ragged file, the last sector is filled up with zeros, as a disk's is. */
  async #readSectors(offset: number, sectors: Buffer): Promise<void> {
    const { cipher, payloadOffset } = this.container;
    if (cipher === null) {
      throw new ImageError('invalid', "Parameter 'key-secret' is required for cipher", { file: this.name });
    }
    await readPadded(this.storage, payloadOffset + offset, sectors);
    await cipher.decrypt(sectors, offset);
  }

  async describe(): Promise<LayerInfo> {
    return { encrypted: true, formatSpecific: { type: 'luks', data: this.container.info } };
  }

  async close(): Promise<void> {
    await this.container.cipher?.close();
  }
}
