import { tracePoint } from '../core/trace.ts';
import { type ForeignFunction, type Libc, loadLibc, SystemCallError, systemCallError } from './libc.ts';

/**
 * The system calls that Node lacks. Each one fails with `ENOSYS` where the platform has no such call; callers have
 * a portable way for every one (see `isUnsupported`). What may take long runs on a thread of the pool.
 */
export interface SystemCalls {
  /** Position of the next data or hole at or after `offset`; null beyond the last (ENXIO). */
  seek(fd: number, offset: number, what: 'data' | 'hole'): number | null;
  /** The file's length, asked anew (what fstat can't tell of a block device). */
  seekEnd(fd: number): number;
  /** fallocate(2) with `FALLOCATE` modes. */
  fallocate(fd: number, mode: number, offset: number, length: number): Promise<void>;
  /** copy_file_range(2): bytes copied, possibly fewer than asked; 0 at the end of the input. */
  copyFileRange(from: number, fromOffset: number, to: number, toOffset: number, length: number): Promise<number>;
  /** ioctl(2) with a buffer that the kernel reads or fills. */
  ioctl(fd: number, request: number, argument: Buffer): Promise<void>;
  /** Memory address of a buffer's first byte modulo `alignment` (a power of two). */
  misalignment(buffer: Buffer, alignment: number): number;
}

/** Modes of fallocate(2), Linux <linux/falloc.h>. */
export const FALLOCATE = { allocate: 0, keepSize: 0x01, punchHole: 0x02, zeroRange: 0x10 } as const;

const SEEK_END = 2;
// <unistd.h>: macOS numbers the two the other way round.
const SEEK_DATA = process.platform === 'darwin' ? 4 : 3;
const SEEK_HOLE = process.platform === 'darwin' ? 3 : 4;

const traceCalls = tracePoint('syscalls_load');
let override: SystemCalls | null | undefined;
let ready: Promise<SystemCalls | null> | undefined;

/** The system calls, or null where there are none: then all goes the portable way. */
export function systemCalls(): Promise<SystemCalls | null> {
  if (override !== undefined) return Promise.resolve(override);
  ready ??= prepare();
  return ready;
}

/**
 * Puts others in the place of the system's calls: null turns them off, undefined restores them. For tests;
 * users set the environment variable IMGPIPE_SYSCALLS to `off`. It counts from the next call on, for open files too.
 */
export function overrideSystemCalls(calls: SystemCalls | null | undefined): void {
  override = calls;
}

async function prepare(): Promise<SystemCalls | null> {
  const libc = process.env.IMGPIPE_SYSCALLS === 'off' ? null : await loadLibc();
  if (traceCalls.enabled) traceCalls.emit({ available: libc !== null });
  return libc === null ? null : bindCalls(libc);
}

function bindCalls(libc: Libc): SystemCalls {
  const lseek = lazy(() => bindWide(libc, 'lseek', 'int fd, int64_t offset, int whence', 'int64_t'));
  const fallocate = lazy(() => bindWide(libc, 'fallocate', 'int fd, int mode, int64_t offset, int64_t length', 'int'));
  const copy = lazy(() =>
    libc.bind('long copy_file_range(int in, _Inout_ int64_t *at, int out, _Inout_ int64_t *to, size_t n, uint flags)'),
  );
  const ioctl = lazy(() => libc.bind('int ioctl(int fd, ulong request, void *argument)'));
  return {
    seek: (fd, offset, what) => seek(libc, lseek(), fd, offset, what === 'data' ? SEEK_DATA : SEEK_HOLE),
    seekEnd: (fd) => seek(libc, lseek(), fd, 0, SEEK_END) ?? 0,
    async fallocate(fd, mode, offset, length) {
      await call(libc, 'fallocate', fallocate(), [fd, mode, offset, length]);
    },
    copyFileRange: (from, fromOffset, to, toOffset, length) =>
      call(libc, 'copy_file_range', copy(), [from, position(fromOffset), to, position(toOffset), length, 0]),
    async ioctl(fd, request, argument) {
      await call(libc, 'ioctl', ioctl(), [fd, request, argument]);
    },
    misalignment: (buffer, alignment) => Number(libc.address(buffer) % BigInt(alignment)),
  };
}

/** `off_t` has 32 bits in the plain functions of 32-bit C libraries: the `…64` ones come first. */
function bindWide(libc: Libc, name: string, parameters: string, result: string): ForeignFunction | null {
  return libc.bind(`${result} ${name}64(${parameters})`) ?? libc.bind(`${result} ${name}(${parameters})`);
}

/** A `loff_t` for the kernel to read and to advance. */
function position(offset: number): Buffer {
  return Buffer.from(new BigInt64Array([BigInt(offset)]).buffer);
}

function lazy<T>(make: () => T): () => T {
  let made: { value: T } | undefined;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
}

function seek(libc: Libc, lseek: ForeignFunction | null, fd: number, offset: number, whence: number): number | null {
  if (lseek === null) throw new SystemCallError('lseek', 'ENOSYS');
  const position = Number(lseek(fd, offset, whence));
  if (position >= 0) return position;
  const error = systemCallError('lseek', libc.errno());
  if (error.code === 'ENXIO') return null;
  throw error;
}

/** Calls on a thread of the pool, again after EINTR. koffi sets that thread's errno for the callback. */
function call(libc: Libc, name: string, run: ForeignFunction | null, args: unknown[]): Promise<number> {
  return new Promise((resolve, reject) => {
    if (run === null) {
      reject(new SystemCallError(name, 'ENOSYS'));
      return;
    }
    const attempt = () =>
      run.async(...args, (failure: unknown, result: number | bigint) => {
        if (failure) {
          reject(failure);
          return;
        }
        if (Number(result) >= 0) {
          resolve(Number(result));
          return;
        }
        const error = systemCallError(name, libc.errno());
        if (error.code === 'EINTR') attempt();
        else reject(error);
      });
    attempt();
  });
}
