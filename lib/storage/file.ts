import { constants, type Stats, unlink } from 'node:fs';
import { dirname, isAbsolute, join, resolve } from 'node:path';
import { fromSystemError, ImageError } from '../core/errors.ts';
import { zeroBlock } from '../core/pool.ts';
import {
  closeDescriptor,
  openDescriptor,
  readAt,
  statDescriptor,
  syncDescriptor,
  truncateDescriptor,
  writeAt,
  writevAt,
} from './descriptor.ts';
import { Flight } from './flight.ts';
import type { CacheMode, CloseOptions, HostRange, Storage, StorageOpenOptions, ZeroOptions } from './storage.ts';

export interface FileOpenOptions extends StorageOpenOptions {
  /** An open seekable descriptor to use instead of opening `path`; the storage closes it. */
  fd?: number;
}

/**
 * Opens a regular file or a device. The messages are qemu-img's: `Could not open 'x': <reason>`, and
 * `Could not create` with `create`.
 */
export async function openFile(path: string, options: FileOpenOptions = {}): Promise<Storage> {
  const verb = options.create ? 'create' : 'open';
  const context = { file: path, operation: verb };
  try {
    const { fd, created } = await openOrCreate(path, options);
    try {
      const stats = await statDescriptor(fd);
      if (stats.isDirectory() || stats.isFIFO() || stats.isSocket()) {
        throw new ImageError('invalid', `'file' driver requires '${path}' to be a regular file`, context);
      }
      if (options.truncate && stats.isFile() && stats.size > 0) await truncateDescriptor(fd, 0);
      return new FileStorage(path, fd, stats, { ...options, created });
    } catch (error) {
      await closeDescriptor(fd).catch(() => {});
      throw error;
    }
  } catch (error) {
    if (error instanceof ImageError) throw error;
    const reason = fromSystemError(error, context);
    throw new ImageError(reason.kind, `Could not ${verb} '${path}': ${reason.message}`, {
      ...context,
      code: reason.code,
      cause: error,
    });
  }
}

async function openOrCreate(path: string, options: FileOpenOptions): Promise<{ fd: number; created: boolean }> {
  if (options.fd !== undefined) return { fd: options.fd, created: false };
  const flags = options.writable || options.create ? constants.O_RDWR : constants.O_RDONLY;
  if (!options.create) return { fd: await openDescriptor(path, flags, 0), created: false };
  try {
    const fd = await openDescriptor(path, flags | constants.O_CREAT | constants.O_EXCL, 0o644);
    return { fd, created: true };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    return { fd: await openDescriptor(path, flags | constants.O_CREAT, 0o644), created: false };
  }
}

interface FileState extends FileOpenOptions {
  created: boolean;
}

/** A regular file. */
export class FileStorage implements Storage {
  readonly name: string;
  readonly path: string | null;
  readonly protocol: string;
  readonly seekable = true;
  readonly writable: boolean;
  readonly fixedSize: boolean;
  readonly #fd: number;
  readonly #cache: CacheMode;
  readonly #created: boolean;
  readonly #flight: Flight;
  #size: number;

  constructor(name: string, fd: number, stats: Stats, state: FileState) {
    this.name = name;
    this.path = resolve(name);
    this.protocol = stats.isFile() ? 'file' : 'host_device';
    this.writable = Boolean(state.writable || state.create);
    this.fixedSize = !stats.isFile();
    this.#fd = fd;
    this.#cache = state.cache ?? 'writeback';
    this.#created = state.created;
    this.#flight = new Flight(name);
    this.#size = state.truncate && stats.isFile() ? 0 : stats.size;
  }

  get size(): number {
    return this.#size;
  }

  read(offset: number, buffer: Buffer): Promise<void> {
    return this.#run('read', offset, async () => {
      if (offset + buffer.length > this.#size) {
        throw new ImageError('corrupt', 'The file ends before the data that should be there', {
          file: this.name,
          operation: 'read',
          offset,
        });
      }
      const count = await readAt(this.#fd, buffer, offset);
      if (count < buffer.length) {
        throw new ImageError('io', 'The file shrank while it was read', {
          file: this.name,
          operation: 'read',
          offset: offset + count,
        });
      }
    });
  }

  write(offset: number, buffer: Buffer): Promise<void> {
    return this.#run('write', offset, async () => {
      await writeAt(this.#fd, buffer, offset);
      this.#grow(offset + buffer.length);
    });
  }

  writev(offset: number, buffers: Buffer[]): Promise<void> {
    return this.#run('write', offset, async () => {
      await writevAt(this.#fd, buffers, offset);
      this.#grow(buffers.reduce((end, buffer) => end + buffer.length, offset));
    });
  }

  zero(offset: number, length: number, _options?: ZeroOptions): Promise<void> {
    return this.#run('zero', offset, async () => {
      const inside = Math.min(length, Math.max(0, this.#size - offset));
      const zeros = zeroBlock();
      for (let done = 0; done < inside; done += zeros.length) {
        await writeAt(this.#fd, zeros.subarray(0, Math.min(zeros.length, inside - done)), offset + done);
      }
      if (offset + length > this.#size) {
        await truncateDescriptor(this.#fd, offset + length);
        this.#grow(offset + length);
      }
    });
  }

  async discard(_offset: number, _length: number): Promise<void> {}

  async allocate(offset: number, length: number): Promise<void> {
    if (offset + length > this.#size) await this.truncate(offset + length);
  }

  async holes(offset: number, length: number): Promise<HostRange[]> {
    const inside = Math.min(length, Math.max(0, this.#size - offset));
    if (inside === 0) return [{ offset, length, hole: true }];
    return [{ offset, length: inside, hole: false }];
  }

  async copyFrom(): Promise<number> {
    return 0;
  }

  truncate(size: number): Promise<void> {
    return this.#run('truncate', size, async () => {
      await truncateDescriptor(this.#fd, size);
      this.#size = size;
    });
  }

  flush(): Promise<void> {
    if (this.#cache === 'unsafe' || !this.writable) return Promise.resolve();
    return this.#run('flush', undefined, () => syncDescriptor(this.#fd));
  }

  allocatedBytes(): Promise<number | null> {
    return this.#run('stat', undefined, async () => (await statDescriptor(this.#fd)).blocks * 512);
  }

  resolve(reference: string): string {
    return isAbsolute(reference) ? reference : join(dirname(this.name), reference);
  }

  async close(options: CloseOptions = {}): Promise<void> {
    if (this.#flight.closed) return;
    await this.#flight.close();
    try {
      await closeDescriptor(this.#fd);
    } catch (error) {
      throw fromSystemError(error, { file: this.name, operation: 'close' });
    } finally {
      if (options.discard && this.#created) await new Promise((done) => unlink(this.path as string, done));
    }
  }

  #grow(end: number): void {
    if (end > this.#size && !this.fixedSize) this.#size = end;
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
}
