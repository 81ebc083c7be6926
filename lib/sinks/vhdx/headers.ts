import { encodeHeader, HEADERS_AT, type VhdxHeader } from '../../layouts/vhdx/index.ts';
import type { Storage } from '../../storage/storage.ts';

/**
 * Both headers of a file that is written to. A change goes into the one that is not current and makes it so (section
 * 2.2.2.1): one of them is valid at any moment.
 */
export class VhdxHeaders {
  readonly #storage: Storage;
  #current: VhdxHeader;
  #slot: number;

  /** @param slot which of them is current: 0 or 1 */
  constructor(storage: Storage, header: VhdxHeader, slot: number) {
    this.#storage = storage;
    this.#current = header;
    this.#slot = slot;
  }

  get current(): VhdxHeader {
    return this.#current;
  }

  /** The change is on the disk when it resolves. */
  async update(changes: Partial<VhdxHeader>): Promise<void> {
    const next = { ...this.#current, ...changes, sequence: this.#current.sequence + 1n };
    const slot = 1 - this.#slot;
    await this.#storage.write(HEADERS_AT[slot], encodeHeader(next));
    await this.#storage.flush();
    this.#current = next;
    this.#slot = slot;
  }
}
