import type { Extent } from '../core/extent.ts';
import type { Storage } from '../storage/storage.ts';
import type { BackingReference, LayerInfo, Source } from './source.ts';

/** A protocol used as a format (`-f file`, `driver=file`): raw bytes under the protocol's own name. */
export class ProtocolSource implements Source {
  readonly format: string;
  readonly backing: BackingReference | null = null;
  readonly #raw: Source;

  constructor(raw: Source, protocol: string) {
    this.#raw = raw;
    this.format = protocol;
  }

  get name(): string {
    return this.#raw.name;
  }
  get size(): number {
    return this.#raw.size;
  }
  get storage(): Storage {
    return this.#raw.storage;
  }
  get granularity(): number {
    return this.#raw.granularity;
  }

  map(offset: number, length: number): Promise<Extent[]> {
    return this.#raw.map(offset, length);
  }
  read(offset: number, buffer: Buffer): Promise<void> {
    return this.#raw.read(offset, buffer);
  }
  describe(): Promise<LayerInfo> {
    return this.#raw.describe();
  }
  close(): Promise<void> {
    return this.#raw.close();
  }
}
