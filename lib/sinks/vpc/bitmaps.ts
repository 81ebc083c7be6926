import type { Storage } from '../../storage/storage.ts';

/** Bitmaps that are known to be whole; beyond this they are looked at again. */
const MAX_KNOWN = 64 * 1024;

/**
 * The sector bitmaps of a disk that is written to. As QEMU does, a block that is there is there with all of its
 * sectors: readers that heed the bitmap must not take what is written for unused.
 */
export class WholeBitmaps {
  readonly #storage: Storage;
  readonly #whole: Buffer;
  /** Host offsets of blocks. */
  readonly #known = new Set<number>();

  constructor(storage: Storage, bytes: number) {
    this.#storage = storage;
    this.#whole = Buffer.alloc(bytes, 0xff);
  }

  /** Writes the bitmap of a new block whose data begin at `host`. */
  async create(host: number): Promise<void> {
    await this.#storage.write(host - this.#whole.length, this.#whole);
    this.#remember(host);
  }

  /** Sees to it that the block at `host` has a whole one. */
  async complete(host: number): Promise<void> {
    if (this.#known.has(host)) return;
    const bitmap = Buffer.allocUnsafe(this.#whole.length);
    await this.#storage.read(host - bitmap.length, bitmap);
    if (bitmap.equals(this.#whole)) this.#remember(host);
    else await this.create(host);
  }

  #remember(host: number): void {
    if (this.#known.size >= MAX_KNOWN) this.#known.clear();
    this.#known.add(host);
  }
}
