import { ImageError } from '../core/errors.ts';
import type { ByteReader } from '../core/extent.ts';
import type { CloseOptions, HostRange, LockRequest, Storage, ZeroOptions } from './storage.ts';

/** A window of `size` bytes onto `storage` from `offset` on. Closing the slice closes the storage. */
export function sliceStorage(storage: Storage, window: { offset: number; size: number }): Storage {
  return new SliceStorage(storage, window);
}

/** See `sliceStorage`. Its length is fixed. */
export class SliceStorage implements Storage {
  readonly base: Storage;
  readonly baseOffset: number;
  readonly name: string;
  readonly protocol: string;
  readonly path: string | null;
  readonly seekable: boolean;
  readonly writable: boolean;
  readonly fixedSize = true;
  readonly size: number;

  constructor(base: Storage, { offset, size }: { offset: number; size: number }) {
    this.base = base;
    this.baseOffset = offset;
    this.name = base.name;
    this.protocol = base.protocol;
    this.path = base.path;
    this.seekable = base.seekable;
    this.writable = base.writable;
    this.size = size;
  }

  async read(offset: number, buffer: Buffer): Promise<void> {
    this.#check('read', offset, buffer.length);
    return this.base.read(this.baseOffset + offset, buffer);
  }

  async write(offset: number, buffer: Buffer): Promise<void> {
    this.#check('write', offset, buffer.length);
    return this.base.write(this.baseOffset + offset, buffer);
  }

  async writev(offset: number, buffers: Buffer[]): Promise<void> {
    let length = 0;
    for (const buffer of buffers) length += buffer.length;
    this.#check('write', offset, length);
    return this.base.writev(this.baseOffset + offset, buffers);
  }

  async zero(offset: number, length: number, options?: ZeroOptions): Promise<void> {
    this.#check('zero', offset, length);
    return this.base.zero(this.baseOffset + offset, length, options);
  }

  async discard(offset: number, length: number): Promise<void> {
    const inside = Math.min(length, this.size - offset);
    if (inside > 0) return this.base.discard(this.baseOffset + offset, inside);
  }

  async allocate(offset: number, length: number): Promise<void> {
    this.#check('allocate', offset, length);
    return this.base.allocate(this.baseOffset + offset, length);
  }

  async holes(offset: number, length: number): Promise<HostRange[]> {
    const inside = Math.min(length, this.size - offset);
    if (inside <= 0) return [{ offset, length, hole: true }];
    const ranges = await this.base.holes(this.baseOffset + offset, inside);
    return ranges.map((range) => ({ ...range, offset: range.offset - this.baseOffset }));
  }

  async copyFrom(source: ByteReader, sourceOffset: number, offset: number, length: number): Promise<number> {
    this.#check('write', offset, length);
    return this.base.copyFrom(source, sourceOffset, this.baseOffset + offset, length);
  }

  async truncate(size: number): Promise<void> {
    if (size > this.size) {
      throw new ImageError('unsupported', 'Cannot grow a part of a file', { file: this.name, operation: 'truncate' });
    }
  }

  flush(): Promise<void> {
    return this.base.flush();
  }

  allocatedBytes(): Promise<number | null> {
    return this.base.allocatedBytes();
  }

  async lock(request: LockRequest): Promise<void> {
    await this.base.lock?.(request);
  }

  resolve(reference: string): string {
    return this.base.resolve(reference);
  }

  close(options?: CloseOptions): Promise<void> {
    return this.base.close(options);
  }

  #check(operation: string, offset: number, length: number): void {
    if (offset >= 0 && offset + length <= this.size) return;
    throw new ImageError(operation === 'read' ? 'corrupt' : 'no-space', 'The range lies beyond the end', {
      file: this.name,
      operation,
      offset,
    });
  }
}

/** The bytes and offset that a slice, or a slice of one, stands for. */
export function unwrapSlice(reader: ByteReader, offset: number): { base: ByteReader; offset: number } {
  let [base, at] = [reader, offset];
  while (base instanceof SliceStorage) {
    at += base.baseOffset;
    base = base.base;
  }
  return { base, offset: at };
}
