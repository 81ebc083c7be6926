import { systemCalls } from './calls.ts';
import { type ForeignFunction, type Libc, loadLibc, systemCallError } from './libc.ts';

/**
 * Locks on single bytes of a file that belong to an open file description: fcntl(2), "Open file description locks".
 * They are shared among processes by agreement only, and end with the description, however the process ends. None of
 * these calls waits. Failures are SystemCallErrors.
 */
export interface LockCalls {
  /** Puts a lock on a byte that others may lock likewise; EAGAIN where one has it for himself. */
  share(fd: number, byte: number): void;
  release(fd: number, byte: number): void;
  /** Whether another open file description has a lock on the byte. */
  isHeld(fd: number, byte: number): boolean;
}

// Linux <asm-generic/fcntl.h>.
const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const F_RDLCK = 0;
const F_WRLCK = 1;
const F_UNLCK = 2;

// struct flock of 64-bit systems: short type, short whence (0: from the file's start), off_t start, off_t length, pid_t.
const FLOCK_SIZE = 32;
const FLOCK_START = 8;
const FLOCK_LENGTH = 16;
const ARCHITECTURES: readonly string[] = ['x64', 'arm64', 'riscv64', 'ppc64', 's390x', 'loong64'];

let ready: Promise<LockCalls | null> | undefined;

/** The calls, or null where there are none: another platform than 64-bit Linux, or system calls are off. */
export async function lockCalls(): Promise<LockCalls | null> {
  if (process.platform !== 'linux' || !ARCHITECTURES.includes(process.arch)) return null;
  if ((await systemCalls()) === null) return null;
  ready ??= loadLibc().then((libc) => (libc === null ? null : bindLocks(libc)));
  return ready;
}

function bindLocks(libc: Libc): LockCalls | null {
  // The third argument is a pointer in all calls made here, so that no variadic call is needed, which costs more.
  const fcntl = libc.bind('int fcntl(int fd, int command, void *lock)');
  if (fcntl === null) return null;
  const set = (fd: number, type: number, byte: number) => call(libc, fcntl, [fd, F_OFD_SETLK, flock(type, byte)]);
  return {
    share: (fd, byte) => set(fd, F_RDLCK, byte),
    release: (fd, byte) => set(fd, F_UNLCK, byte),
    isHeld(fd, byte) {
      const lock = flock(F_WRLCK, byte);
      call(libc, fcntl, [fd, F_OFD_GETLK, lock]);
      return new Int16Array(lock.buffer, lock.byteOffset, 1)[0] !== F_UNLCK;
    },
  };
}

/** A `struct flock` in the machine's byte order. */
function flock(type: number, byte: number): Buffer {
  const lock = Buffer.alloc(FLOCK_SIZE);
  const { buffer, byteOffset } = lock;
  new Int16Array(buffer, byteOffset, 1)[0] = type;
  new BigInt64Array(buffer, byteOffset + FLOCK_START, 1)[0] = BigInt(byte);
  new BigInt64Array(buffer, byteOffset + FLOCK_LENGTH, 1)[0] = 1n;
  return lock;
}

function call(libc: Libc, fcntl: ForeignFunction, args: unknown[]): void {
  if (Number(fcntl(...args)) < 0) throw systemCallError('fcntl', libc.errno());
}
