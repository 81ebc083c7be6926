import { ImageError } from '../core/errors.ts';
import type { CloseOptions, HostRange, Storage } from './storage.ts';

/** Memory is taken in pages, so that a sparse storage costs what was written to it. */
const PAGE = 64 * 1024;

/** A storage in memory, holding a copy of `bytes`: for tests and small things. Pages not written are holes. */
export function memoryStorage(name: string, bytes?: Buffer): MemoryStorage {
  return new MemoryStorage(name, bytes);
}

export class MemoryStorage implements Storage {
  readonly name: string;
  readonly protocol = 'memory';
  readonly path = null;
  readonly seekable = true;
  readonly writable = true;
  readonly fixedSize = false;
  readonly #pages = new Map<number, Buffer>();
  #size = 0;
  #closed = false;

  constructor(name: string, bytes?: Buffer) {
    this.name = name;
    if (bytes !== undefined) this.#put(0, bytes);
  }

  get size(): number {
    return this.#size;
  }

  /** A copy of everything. */
  bytes(): Buffer {
    const all = Buffer.alloc(this.#size);
    this.#get(0, all);
    return all;
  }

  async read(offset: number, buffer: Buffer): Promise<void> {
    this.#check('read', offset);
    if (offset + buffer.length > this.#size) {
      throw new ImageError('corrupt', 'The file ends before the data that should be there', {
        file: this.name,
        operation: 'read',
        offset,
      });
    }
    this.#get(offset, buffer);
  }

  async write(offset: number, buffer: Buffer): Promise<void> {
    this.#check('write', offset);
    this.#put(offset, buffer);
  }

  async writev(offset: number, buffers: Buffer[]): Promise<void> {
    this.#check('write', offset);
    let at = offset;
    for (const buffer of buffers) {
      this.#put(at, buffer);
      at += buffer.length;
    }
  }

  async zero(offset: number, length: number): Promise<void> {
    this.#check('zero', offset);
    if (length === 0) return;
    this.#erase(offset, Math.min(offset + length, this.#size));
    this.#size = Math.max(this.#size, offset + length);
  }

  async discard(offset: number, length: number): Promise<void> {
    this.#check('discard', offset);
    this.#erase(offset, Math.min(offset + length, this.#size));
  }

  async allocate(offset: number, length: number): Promise<void> {
    this.#check('allocate', offset);
    for (let page = Math.floor(offset / PAGE); page * PAGE < offset + length; page += 1) this.#page(page);
    this.#size = Math.max(this.#size, offset + length);
  }

  async holes(offset: number, length: number): Promise<HostRange[]> {
    this.#check('holes', offset);
    const inside = Math.min(offset + length, this.#size);
    if (inside <= offset) return [{ offset, length, hole: true }];
    const hole = !this.#pages.has(Math.floor(offset / PAGE));
    let page = Math.floor(offset / PAGE) + 1;
    while (page * PAGE < inside && this.#pages.has(page) !== hole) page += 1;
    return [{ offset, length: Math.min(page * PAGE, inside) - offset, hole }];
  }

  async copyFrom(): Promise<number> {
    return 0;
  }

  async truncate(size: number): Promise<void> {
    this.#check('truncate', size);
    if (size < this.#size) this.#erase(size, this.#size);
    this.#size = size;
  }

  async flush(): Promise<void> {
    this.#check('flush', 0);
  }

  async allocatedBytes(): Promise<number | null> {
    return this.#pages.size * PAGE;
  }

  resolve(reference: string): string {
    return reference;
  }

  async close(_options?: CloseOptions): Promise<void> {
    this.#closed = true;
  }

  #check(operation: string, offset: number): void {
    if (this.#closed) {
      throw new ImageError('invalid', 'The file is closed already', { file: this.name, operation, offset });
    }
  }

  #page(index: number): Buffer {
    let page = this.#pages.get(index);
    if (page === undefined) {
      page = Buffer.alloc(PAGE);
      this.#pages.set(index, page);
    }
    return page;
  }

  #get(offset: number, buffer: Buffer): void {
    for (let at = offset; at < offset + buffer.length; ) {
      const index = Math.floor(at / PAGE);
      const end = Math.min((index + 1) * PAGE, offset + buffer.length);
      const page = this.#pages.get(index);
      if (page === undefined) buffer.fill(0, at - offset, end - offset);
      else page.copy(buffer, at - offset, at - index * PAGE, end - index * PAGE);
      at = end;
    }
  }

  #put(offset: number, buffer: Buffer): void {
    for (let at = offset; at < offset + buffer.length; ) {
      const index = Math.floor(at / PAGE);
      const end = Math.min((index + 1) * PAGE, offset + buffer.length);
      buffer.copy(this.#page(index), at - index * PAGE, at - offset, end - offset);
      at = end;
    }
    if (buffer.length > 0) this.#size = Math.max(this.#size, offset + buffer.length);
  }

  /** Makes [start, end) zeros: whole pages are dropped. */
  #erase(start: number, end: number): void {
    for (const [index, page] of this.#pages) {
      const from = Math.max(0, start - index * PAGE);
      const to = Math.min(PAGE, end - index * PAGE);
      if (from === 0 && to === PAGE) this.#pages.delete(index);
      else if (from < to) page.fill(0, from, to);
    }
  }
}
