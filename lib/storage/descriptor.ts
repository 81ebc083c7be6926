import { close, fdatasync, fstat, ftruncate, open, read, type Stats, stat, unlink, write, writev } from 'node:fs';

/**
 * A file descriptor's calls as promises that are never short. Errors are the operating system's own (with
 * `code`). Plain callbacks beneath: a FileHandle costs several promises a request.
 */

// Linux moves at most 0x7ffff000 bytes a call, and Node refuses lengths above 2^31 - 1.
const MAX_TRANSFER = 1 << 30;
// IOV_MAX of Linux.
const MAX_VECTORS = 1024;

/** Reads into `buffer` from `position` until it is full or the file ends; resolves to the bytes read. */
export function readAt(fd: number, buffer: Buffer, position: number): Promise<number> {
  return new Promise((resolve, reject) => {
    let done = 0;
    const next = () => {
      read(fd, buffer, done, Math.min(buffer.length - done, MAX_TRANSFER), position + done, (error, count) => {
        if (error !== null) {
          if (error.code === 'EINTR') next();
          else reject(error);
          return;
        }
        done += count;
        if (done === buffer.length || count === 0) resolve(done);
        else next();
      });
    };
    next();
  });
}

/** Writes the whole of `buffer` at `position`. */
export function writeAt(fd: number, buffer: Buffer, position: number): Promise<void> {
  return new Promise((resolve, reject) => {
    let done = 0;
    const next = () => {
      write(fd, buffer, done, Math.min(buffer.length - done, MAX_TRANSFER), position + done, (error, count) => {
        if (error !== null && error.code !== 'EINTR') {
          reject(error);
          return;
        }
        if (error === null) done += count;
        if (done === buffer.length) resolve();
        else next();
      });
    };
    next();
  });
}

/** Writes the buffers one after the other from `position`, in as few calls as the kernel allows. */
export async function writevAt(fd: number, buffers: readonly Buffer[], position: number): Promise<void> {
  let at = position;
  for (let first = 0; first < buffers.length; first += MAX_VECTORS) {
    const group = buffers.slice(first, first + MAX_VECTORS);
    const written = await writevOnce(fd, group, at);
    at = await writeFrom(fd, group, written, at);
  }
}

function writevOnce(fd: number, buffers: readonly Buffer[], position: number): Promise<number> {
  return new Promise((resolve, reject) => {
    writev(fd, buffers, position, (error, count) => {
      if (error === null) resolve(count);
      else if (error.code === 'EINTR') resolve(0);
      else reject(error);
    });
  });
}

/** Writes what `writevOnce` left over: all but the first `written` bytes. Resolves to the end's position. */
async function writeFrom(fd: number, buffers: readonly Buffer[], written: number, start: number): Promise<number> {
  let at = start;
  for (const buffer of buffers) {
    const skip = Math.min(buffer.length, Math.max(0, start + written - at));
    if (skip < buffer.length) await writeAt(fd, buffer.subarray(skip), at + skip);
    at += buffer.length;
  }
  return at;
}

export function openDescriptor(path: string, flags: number, mode: number): Promise<number> {
  return new Promise((resolve, reject) => {
    open(path, flags, mode, (error, fd) => (error === null ? resolve(fd) : reject(error)));
  });
}

export function statDescriptor(fd: number): Promise<Stats> {
  return new Promise((resolve, reject) => {
    fstat(fd, (error, stats) => (error === null ? resolve(stats) : reject(error)));
  });
}

export function statPath(path: string): Promise<Stats> {
  return new Promise((resolve, reject) => {
    stat(path, (error, stats) => (error === null ? resolve(stats) : reject(error)));
  });
}

/** Removes `path` if it still is the file that `fd` opened; what can't be removed stays. */
export async function unlinkDescriptor(path: string, fd: number): Promise<void> {
  const [opened, named] = await Promise.all([statDescriptor(fd), statPath(path).catch(() => null)]);
  if (named === null || named.dev !== opened.dev || named.ino !== opened.ino) return;
  await new Promise((done) => unlink(path, done));
}

export function truncateDescriptor(fd: number, size: number): Promise<void> {
  return settle((done) => ftruncate(fd, size, done));
}

/** Data, and the metadata needed to find them, are on the disk. */
export function syncDescriptor(fd: number): Promise<void> {
  return settle((done) => fdatasync(fd, done));
}

export function closeDescriptor(fd: number): Promise<void> {
  return settle((done) => close(fd, done));
}

function settle(call: (done: (error: NodeJS.ErrnoException | null) => void) => void): Promise<void> {
  return new Promise((resolve, reject) => call((error) => (error ? reject(error) : resolve())));
}
