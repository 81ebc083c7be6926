import { resolve } from 'node:path';
import { fromSystemError, ImageError } from '../core/errors.ts';
import type { ByteReader } from '../core/extent.ts';
import { setExtentSizeHint, setNoCopyOnWrite } from '../syscalls/attributes.ts';
import { systemCalls } from '../syscalls/calls.ts';
import type { PositionedIo } from './buffered.ts';
import { type CacheTraits, cacheTraits } from './cache.ts';
import { copyRange } from './copy-range.ts';
import { statDescriptor, truncateDescriptor, unlinkDescriptor } from './descriptor.ts';
import { Flight } from './flight.ts';
import { mapHoles } from './hole-map.ts';
import { FileLocks, type Locking } from './locks.ts';
import { SizeLock } from './size-lock.ts';
import { unwrapSlice } from './slice.ts';
import { DeviceSpace, FileSpace, type Space } from './space.ts';
import type { CacheMode, CloseOptions, HostRange, LockRequest, Storage, ZeroOptions } from './storage.ts';
import { allocateByWriting, writeZeros } from './zeros.ts';

/** An opened file, as `openFile` hands it over. */
export interface OpenedFile {
  fd: number;
  io: PositionedIo;
  size: number;
  kind: 'file' | 'block' | 'character';
  writable: boolean;
  cache: CacheMode;
  /** The file was not there before: it may be removed again. */
  created: boolean;
  /** What tells the file from others on this machine. */
  identity: string;
  locking: Locking;
}

/** A regular file or a device; made by `openFile`. */
export class FileStorage implements Storage {
  readonly name: string;
  readonly path: string;
  readonly protocol: string;
  readonly seekable = true;
  readonly writable: boolean;
  readonly fixedSize: boolean;
  readonly #file: OpenedFile;
  readonly #io: PositionedIo;
  readonly #space: Space;
  readonly #flight: Flight;
  readonly #cache: CacheTraits;
  readonly #locks: FileLocks;
  readonly #sizeLock = new SizeLock();
  #size: number;
  #tellsHoles: boolean;
  #closing: Promise<void> | undefined;

  constructor(name: string, file: OpenedFile) {
    this.name = name;
    this.path = resolve(name);
    this.protocol = file.kind === 'file' ? 'file' : 'host_device';
    this.writable = file.writable;
    this.fixedSize = file.kind !== 'file';
    this.#file = file;
    this.#io = file.io;
    this.#space = file.kind === 'file' ? new FileSpace(file.fd) : new DeviceSpace(file.fd);
    this.#flight = new Flight(name);
    this.#cache = cacheTraits(file.cache);
    this.#locks = new FileLocks({ name, ...file });
    this.#size = file.size;
    this.#tellsHoles = file.kind === 'file';
  }

  get size(): number {
    return this.#size;
  }

  read(offset: number, buffer: Buffer): Promise<void> {
    return this.#run('read', offset, async () => {
      if (offset + buffer.length > this.#size) throw this.#endsEarly(offset);
      const count = await this.#io.read(buffer, offset);
      if (count < buffer.length) throw this.#shrank(offset + count);
    });
  }

  write(offset: number, buffer: Buffer): Promise<void> {
    if (buffer.length === 0) return Promise.resolve();
    return this.#writing('write', offset, buffer.length, () => this.#io.write(buffer, offset));
  }

  writev(offset: number, buffers: Buffer[]): Promise<void> {
    let length = 0;
    for (const buffer of buffers) length += buffer.length;
    if (length === 0) return Promise.resolve();
    return this.#writing('write', offset, length, () => this.#io.writev(buffers, offset));
  }

  zero(offset: number, length: number, { unmap = false }: ZeroOptions = {}): Promise<void> {
    if (length === 0) return Promise.resolve();
    return this.#run('zero', offset, async () => {
      if (this.fixedSize && offset + length > this.#size) throw this.#beyondDevice(offset);
      const inside = Math.min(length, this.#size - offset);
      if (inside > 0 && !(await this.#space.zero(offset, inside, unmap))) {
        await writeZeros(this.#io, offset, inside);
      }
      // A file grows by its length alone: what was never written reads as zeros.
      if (offset + length > this.#size) await this.#extend(offset + length);
      await this.#through();
    });
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#run('discard', offset, async () => {
      const inside = Math.min(length, this.#size - offset);
      if (inside > 0 && (await this.#space.discard(offset, inside))) await this.#through();
    });
  }

  allocate(offset: number, length: number): Promise<void> {
    return this.#writing('allocate', offset, length, async () => {
      if (!(await this.#space.allocate(offset, length))) {
        await allocateByWriting(this.#io, offset, length, this.#size);
      }
      await this.#through();
    });
  }

  holes(offset: number, length: number): Promise<HostRange[]> {
    return this.#run('map', offset, async () => {
      const end = Math.min(offset + length, this.#size);
      if (end <= offset) return [{ offset, length, hole: true }];
      const calls = this.#tellsHoles ? await systemCalls() : null;
      const ranges = calls && mapHoles(calls, this.#file.fd, this, { offset, end });
      this.#tellsHoles = ranges !== null;
      return ranges ?? [{ offset, length: end - offset, hole: false }];
    });
  }

  /** Only from another file; neither of the two may go around the page cache. */
  async copyFrom(source: ByteReader, sourceOffset: number, offset: number, length: number): Promise<number> {
    const { base: from, offset: at } = unwrapSlice(source, sourceOffset);
    if (!(from instanceof FileStorage) || this.fixedSize || from.fixedSize) return 0;
    if (this.#cache.direct || from.#cache.direct) return 0;
    const files = { from: from.#file.fd, fromOffset: at, to: this.#file.fd, toOffset: offset };
    return from.#run('read', at, () =>
      this.#writing(
        'write',
        offset,
        length,
        async () => {
          const copied = await copyRange(files, length);
          await this.#through();
          return copied;
        },
        (copied) => offset + copied,
      ),
    );
  }

  truncate(size: number): Promise<void> {
    return this.#run('truncate', size, async () => {
      if (!this.fixedSize) {
        await this.#sizeLock.exclude(() => this.#setSize(size));
        await this.#through();
      } else if (size > this.#size) {
        throw new ImageError('unsupported', 'Cannot grow device files', { file: this.name, operation: 'truncate' });
      }
    });
  }

  flush(): Promise<void> {
    if (!this.#cache.flushes || !this.writable || this.#file.kind === 'character') return Promise.resolve();
    return this.#run('flush', undefined, () => this.#io.sync());
  }

  allocatedBytes(): Promise<number | null> {
    return this.#run('stat', undefined, async () => (await statDescriptor(this.#file.fd)).blocks * 512);
  }

  lock(request: LockRequest): Promise<void> {
    return this.#run('lock', undefined, () => this.#locks.acquire(request));
  }

  resolve(reference: string): string {
    // QEMU's rule: absolute paths and names with a protocol stand for themselves, all else is put behind the
    // directory as text, without tidying.
    if (reference.startsWith('/') || /^[^/:]*:/.test(reference)) return reference;
    return this.name.slice(0, this.name.lastIndexOf('/') + 1) + reference;
  }

  close(options: CloseOptions = {}): Promise<void> {
    this.#closing ??= this.#close(options);
    return this.#closing;
  }

  /** Turns copy-on-write off for a new file; false where the file system has no such thing. */
  async disableCopyOnWrite(): Promise<boolean> {
    const calls = await systemCalls();
    return calls !== null && succeeds(this.#run('ioctl', undefined, () => setNoCopyOnWrite(calls, this.#file.fd)));
  }

  /** Asks for space in units of `bytes`, for a new file; false where the file system has no such thing. */
  async hintExtentSize(bytes: number): Promise<boolean> {
    const calls = await systemCalls();
    return (
      calls !== null && succeeds(this.#run('ioctl', undefined, () => setExtentSizeHint(calls, this.#file.fd, bytes)))
    );
  }

  /** What may make the file longer: `write` runs beside others of its kind, but not beside a change of length. */
  #writing<T>(
    operation: string,
    offset: number,
    length: number,
    write: () => Promise<T>,
    endOf: (result: T) => number = () => offset + length,
  ): Promise<T> {
    return this.#run(operation, offset, async () => {
      if (offset + length <= this.#size || this.fixedSize) return write();
      return this.#sizeLock.share(async () => {
        const result = await write();
        this.#size = Math.max(this.#size, endOf(result));
        return result;
      });
    });
  }

  #extend(size: number): Promise<void> {
    return this.#sizeLock.exclude(async () => {
      if (size > this.#size) await this.#setSize(size);
    });
  }

  async #setSize(size: number): Promise<void> {
    await truncateDescriptor(this.#file.fd, size);
    this.#size = size;
  }

  /** O_DSYNC covers writes alone; what else these modes change is flushed here. */
  async #through(): Promise<void> {
    if (this.#cache.through) await this.#io.sync();
  }

  async #close(options: CloseOptions): Promise<void> {
    await this.#flight.close();
    try {
      this.#locks.release();
      if (options.discard && this.#file.created) await unlinkDescriptor(this.path, this.#file.fd);
      await this.#io.close();
    } catch (error) {
      throw fromSystemError(error, { file: this.name, operation: 'close' });
    }
  }

  async #run<T>(operation: string, offset: number | undefined, call: () => Promise<T>): Promise<T> {
    this.#flight.enter();
    try {
      return await call();
    } catch (error) {
      throw fromSystemError(error, { file: this.name, operation, offset });
    } finally {
      this.#flight.leave();
    }
  }

  #endsEarly(offset: number): ImageError {
    return new ImageError('corrupt', 'The file ends before the data that should be there', {
      file: this.name,
      operation: 'read',
      offset,
    });
  }

  #shrank(offset: number): ImageError {
    return new ImageError('io', 'The file shrank while it was read', { file: this.name, operation: 'read', offset });
  }

  #beyondDevice(offset: number): ImageError {
    return new ImageError('no-space', 'No space left on device', {
      file: this.name,
      operation: 'zero',
      offset,
      code: 'ENOSPC',
    });
  }
}

async function succeeds(attempt: Promise<void>): Promise<boolean> {
  return attempt.then(
    () => true,
    () => false,
  );
}
