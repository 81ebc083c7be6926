import { randomUUID } from 'node:crypto';
import { constants, open, unlink } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fromSystemError } from '../core/errors.ts';
import { tracePoint } from '../core/trace.ts';
import { openFile } from './file.ts';
import type { Storage } from './storage.ts';

/** Linux's __O_TMPFILE, to be joined with O_DIRECTORY: the same number on every architecture that Node runs on. */
const TMPFILE = 0o20000000;

const traceSpool = tracePoint('spool_open');

/**
 * A temporary file without a name, readable and writable by its owner only: it is gone as soon as it is closed,
 * and with the process, however that ends.
 * @param directory where to make it; the system's temporary directory where that is null or does not take files
 * @param name what messages call it
 */
export async function openSpool(directory: string | null, name: string): Promise<Storage> {
  const places = directory === null ? [tmpdir()] : [directory, tmpdir()];
  let failure: unknown;
  for (const place of places) {
    try {
      const fd = await openNameless(place);
      if (traceSpool.enabled) traceSpool.emit({ directory: place });
      return await openFile(name, { fd, writable: true, cache: 'unsafe', locking: 'off' });
    } catch (error) {
      failure ??= error;
    }
  }
  throw fromSystemError(failure, { file: places[0], operation: 'create' });
}

/** The directory beside an output, where there is likely to be as much room as the output takes. */
export function directoryOf(filename: string | null | undefined): string | null {
  if (filename === null || filename === undefined || filename === '-') return null;
  const directory = dirname(filename);
  // Devices lie in a file system in memory.
  return directory === '/dev' || directory.startsWith('/dev/') ? null : directory;
}

async function openNameless(directory: string): Promise<number> {
  if (process.platform === 'linux') {
    const flags = TMPFILE | constants.O_DIRECTORY | constants.O_RDWR;
    const fd = await openDescriptor(directory, flags).catch(() => null);
    if (fd !== null) return fd;
  }
  // Not every file system can make a file without a name: it gets one that nobody guesses, for a moment.
  const path = join(directory, `.imgpipe-${randomUUID()}`);
  const fd = await openDescriptor(path, constants.O_CREAT | constants.O_EXCL | constants.O_RDWR);
  await new Promise((done) => unlink(path, done));
  return fd;
}

function openDescriptor(path: string, flags: number): Promise<number> {
  return new Promise((resolve, reject) => {
    open(path, flags, 0o600, (error, fd) => (error ? reject(error) : resolve(fd)));
  });
}
