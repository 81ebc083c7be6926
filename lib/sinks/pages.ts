import { ImageError } from '../core/errors.ts';
import { Window } from '../core/window.ts';
import { readPadded, type Storage } from '../storage/storage.ts';

/** A cluster of metadata in memory: an L2 table or a refcount block. */
export interface Page {
  /** Host offset; also its key. */
  readonly offset: number;
  readonly bytes: Buffer;
  /** Differs from what the storage holds. */
  dirty: boolean;
  /** Users that hold on to `bytes`; a pinned page stays. */
  pins: number;
}

/** A page's bytes as they were at one moment. */
export interface PageImage {
  offset: number;
  bytes: Buffer;
}

/** Small pages cost more than their bytes. */
const MAX_PAGES = 4096;

/**
 * Pages of one kind, the least recently used first to go. Only clean pages go; what must happen
 * before dirty ones may be written is the business of `commit`.
 */
export class PageCache {
  readonly #storage: Storage;
  readonly #pageSize: number;
  readonly #maxPages: number;
  readonly #what: string;
  readonly #format: string;
  readonly #pages = new Map<number, Page>();

  /** @param what for messages: `L2 table`  @param maxBytes memory to keep to */
  constructor({ storage, pageSize, maxBytes, what, format }: PageCacheOptions) {
    this.#format = format;
    this.#storage = storage;
    this.#pageSize = pageSize;
    this.#maxPages = Math.min(MAX_PAGES, Math.max(8, Math.floor(maxBytes / pageSize)));
    this.#what = what;
  }

  /** The page, if it is in memory; now the most recently used one. */
  peek(offset: number): Page | undefined {
    const page = this.#pages.get(offset);
    if (page !== undefined && this.#pages.size > 1) {
      this.#pages.delete(offset);
      this.#pages.set(offset, page);
    }
    return page;
  }

  /** Takes a new page in; `bytes` is one cluster and belongs to the cache. */
  add(offset: number, bytes: Buffer, dirty: boolean): Page {
    const page = { offset, bytes, dirty, pins: 0 };
    this.#pages.delete(offset);
    this.#pages.set(offset, page);
    return page;
  }

  /**
   * The page, read if it must be. One caller at a time: under the image's metadata lock.
   * @param length of a page that is shorter than the others
   */
  async load(offset: number, length = this.#pageSize): Promise<Page> {
    const known = this.peek(offset);
    if (known !== undefined) return known;
    if (offset >= this.#storage.size) {
      throw new ImageError('corrupt', `A ${this.#what} lies past the end of the file`, {
        file: this.#storage.name,
        format: this.#format,
        offset,
      });
    }
    const bytes = Buffer.allocUnsafeSlow(length);
    await readPadded(this.#storage, offset, bytes);
    return this.add(offset, bytes, false);
  }

  /** Forgets a page whose cluster is given up. */
  drop(offset: number): void {
    this.#pages.delete(offset);
  }

  /** Makes place for one more page, writing dirty ones back (`commit`) where no clean one can go. */
  async makeRoom(commit: () => Promise<void>): Promise<void> {
    if (this.#pages.size < this.#maxPages || this.#evict()) return;
    await commit();
    this.#evict();
  }

  #evict(): boolean {
    for (const page of this.#pages.values()) {
      if (page.dirty || page.pins > 0) continue;
      this.#pages.delete(page.offset);
      return true;
    }
    return false;
  }

  get dirty(): boolean {
    for (const page of this.#pages.values()) if (page.dirty) return true;
    return false;
  }

  /**
   * Copies of all dirty pages, which count as clean from now on. Copies, so that what is written is
   * one consistent moment even while entries go on changing.
   */
  takeDirty(): PageImage[] {
    const images: PageImage[] = [];
    for (const page of this.#pages.values()) {
      if (!page.dirty) continue;
      page.dirty = false;
      images.push({ offset: page.offset, bytes: Buffer.from(page.bytes) });
    }
    return images;
  }

  /** After a failed write: the pages have to be written again. */
  markDirty(images: readonly PageImage[]): void {
    for (const { offset } of images) {
      const page = this.#pages.get(offset);
      if (page !== undefined) page.dirty = true;
    }
  }
}

export interface PageCacheOptions {
  storage: Storage;
  pageSize: number;
  maxBytes: number;
  what: string;
  /** Driver name, for errors. */
  format: string;
}

const MAX_WRITE = 1024 * 1024;

/** Writes pages in ascending order, neighbours together. */
export async function writePages(storage: Storage, pages: PageImage[]): Promise<void> {
  pages.sort((a, b) => a.offset - b.offset);
  const window = new Window(4);
  let index = 0;
  while (index < pages.length) {
    const { offset } = pages[index];
    const run: Buffer[] = [];
    let end = offset;
    while (index < pages.length && pages[index].offset === end && end - offset < MAX_WRITE) {
      run.push(pages[index].bytes);
      end += pages[index].bytes.length;
      index += 1;
    }
    await window.enter(() => storage.writev(offset, run));
  }
  await window.drain();
}
