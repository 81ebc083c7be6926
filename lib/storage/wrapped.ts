import type { ByteReader } from '../core/extent.ts';
import type { CloseOptions, HostRange, LockRequest, Storage, ZeroOptions } from './storage.ts';

/** Passes everything on: the base of storages that change one thing about another. Closing closes the other too. */
export class WrappedStorage implements Storage {
  protected readonly inner: Storage;

  constructor(inner: Storage) {
    this.inner = inner;
  }

  get name(): string {
    return this.inner.name;
  }
  get protocol(): string {
    return this.inner.protocol;
  }
  get path(): string | null {
    return this.inner.path;
  }
  get seekable(): boolean {
    return this.inner.seekable;
  }
  get writable(): boolean {
    return this.inner.writable;
  }
  get fixedSize(): boolean {
    return this.inner.fixedSize;
  }
  get size(): number {
    return this.inner.size;
  }

  read(offset: number, buffer: Buffer): Promise<void> {
    return this.inner.read(offset, buffer);
  }
  write(offset: number, buffer: Buffer): Promise<void> {
    return this.inner.write(offset, buffer);
  }
  writev(offset: number, buffers: Buffer[]): Promise<void> {
    return this.inner.writev(offset, buffers);
  }
  zero(offset: number, length: number, options?: ZeroOptions): Promise<void> {
    return this.inner.zero(offset, length, options);
  }
  discard(offset: number, length: number): Promise<void> {
    return this.inner.discard(offset, length);
  }
  allocate(offset: number, length: number): Promise<void> {
    return this.inner.allocate(offset, length);
  }
  holes(offset: number, length: number): Promise<HostRange[]> {
    return this.inner.holes(offset, length);
  }
  /** The kernel would copy behind the wrapper's back: the caller reads and writes instead. */
  async copyFrom(_source: ByteReader, _sourceOffset: number, _offset: number, _length: number): Promise<number> {
    return 0;
  }
  truncate(size: number): Promise<void> {
    return this.inner.truncate(size);
  }
  flush(): Promise<void> {
    return this.inner.flush();
  }
  allocatedBytes(): Promise<number | null> {
    return this.inner.allocatedBytes();
  }
  async lock(request: LockRequest): Promise<void> {
    await this.inner.lock?.(request);
  }
  resolve(reference: string): string {
    return this.inner.resolve(reference);
  }
  close(options?: CloseOptions): Promise<void> {
    return this.inner.close(options);
  }
}
