import { constants, type Stats } from 'node:fs';
import { fromSystemError, ImageError } from '../core/errors.ts';
import { tracePoint } from '../core/trace.ts';
import { deviceSize } from '../syscalls/device.ts';
import { bufferedIo, type PositionedIo } from './buffered.ts';
import { cacheTraits } from './cache.ts';
import {
  closeDescriptor,
  openDescriptor,
  statDescriptor,
  statPath,
  truncateDescriptor,
  unlinkDescriptor,
} from './descriptor.ts';
import { directIo } from './direct.ts';
import { FileStorage } from './file-storage.ts';
import type { Locking } from './locks.ts';
import type { CacheMode, Storage, StorageOpenOptions } from './storage.ts';

export interface FileOpenOptions extends StorageOpenOptions {
  /** An open seekable descriptor to use instead of opening `path`, which then only names it; the storage closes it. */
  fd?: number;
  /** Default `auto`. */
  locking?: Locking;
}

const traceOpen = tracePoint('file_open');

/**
 * Opens a regular file or a device. The messages are qemu-img's: `Could not open 'x': <reason>`, and `Could not
 * create` with `create`. A file that was made is removed again if opening fails later on.
 */
export async function openFile(path: string, options: FileOpenOptions = {}): Promise<Storage> {
  const verb = options.create ? 'create' : 'open';
  try {
    const opened = await openOrCreate(path, options);
    try {
      const storage = await prepare(path, opened, options);
      if (traceOpen.enabled) traceOpen.emit({ file: path, size: storage.size, created: opened.created });
      return storage;
    } catch (error) {
      if (opened.created) await unlinkDescriptor(path, opened.fd);
      await closeDescriptor(opened.fd).catch(() => {});
      throw error;
    }
  } catch (error) {
    if (error instanceof ImageError) throw error;
    const context = { file: path, operation: verb };
    const reason = fromSystemError(error, context);
    throw new ImageError(reason.kind, `Could not ${verb} '${path}': ${reason.message}`, {
      ...context,
      code: reason.code,
      cause: error,
    });
  }
}

interface OpenedDescriptor {
  fd: number;
  flags: number;
  created: boolean;
}

async function openOrCreate(path: string, options: FileOpenOptions): Promise<OpenedDescriptor> {
  const writable = options.writable || options.create;
  const flags = (writable ? constants.O_RDWR : constants.O_RDONLY) | syncFlag(options.cache);
  if (options.fd !== undefined) return { fd: options.fd, flags, created: false };
  if (!options.create) {
    // Asked before opening: opening a named pipe would wait for its other end.
    checkKind(path, await statPath(path));
    return { fd: await openDescriptor(path, flags, 0), flags, created: false };
  }
  try {
    const fd = await openDescriptor(path, flags | constants.O_CREAT | constants.O_EXCL, 0o644);
    return { fd, flags, created: true };
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    // It is there, or it is a link to where nothing is yet: then the file is made, but it is not known by whom.
    return { fd: await openDescriptor(path, flags | constants.O_CREAT, 0o644), flags, created: false };
  }
}

/** Each write waits for the disk in two of the cache modes. */
export function syncFlag(cache: CacheMode = 'writeback'): number {
  return cacheTraits(cache).through ? constants.O_DSYNC : 0;
}

async function prepare(path: string, { fd, flags, created }: OpenedDescriptor, options: FileOpenOptions) {
  const stats = await statDescriptor(fd);
  checkKind(path, stats);
  if (options.truncate && stats.isFile() && stats.size > 0) await truncateDescriptor(fd, 0);
  const size = await sizeOf(fd, stats, options);
  return new FileStorage(path, {
    fd,
    io: await ioFor(path, fd, flags, options.cache),
    size,
    kind: stats.isFile() ? 'file' : stats.isBlockDevice() ? 'block' : 'character',
    writable: Boolean(options.writable || options.create),
    cache: options.cache ?? 'writeback',
    created,
    identity: `${stats.dev}:${stats.ino}`,
    // What is written to a terminal or /dev/null is in nobody's way.
    locking: stats.isCharacterDevice() ? 'off' : (options.locking ?? 'auto'),
  });
}

async function sizeOf(fd: number, stats: Stats, options: FileOpenOptions): Promise<number> {
  if (stats.isFile()) return options.truncate ? 0 : stats.size;
  if (!stats.isBlockDevice()) return 0;
  const size = await deviceSize(fd, stats.rdev);
  if (size !== null) return size;
  throw new ImageError('unsupported', "The device's size can't be told on this platform", { operation: 'open' });
}

async function ioFor(path: string, fd: number, flags: number, cache: CacheMode = 'writeback'): Promise<PositionedIo> {
  const direct = cacheTraits(cache).direct ? await directIo(path, fd, flags) : null;
  return direct ?? bufferedIo(fd);
}

function checkKind(path: string, stats: Stats): void {
  if (stats.isFile() || stats.isBlockDevice() || stats.isCharacterDevice()) return;
  throw new ImageError('invalid', `'file' driver requires '${path}' to be a regular file`, {
    file: path,
    operation: 'open',
  });
}
