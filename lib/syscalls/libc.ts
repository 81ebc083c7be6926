import { constants } from 'node:os';

/** A C function as koffi binds it: called at once, or `async` on a thread of the pool. */
export interface ForeignFunction {
  (...args: unknown[]): number | bigint;
  async(...args: unknown[]): void;
}

/** The C library of this process. */
export interface Libc {
  /** Binds a function by its C prototype; null where the library has none of that name. */
  bind(prototype: string): ForeignFunction | null;
  /** `errno` of the last call. */
  errno(): number;
  /** Where a buffer's bytes lie in memory. */
  address(buffer: Buffer): bigint;
}

let loaded: Promise<Libc | null> | undefined;

/**
 * Loads koffi and the C library, once; null where that can't be done (no build of koffi for this platform).
 * Loading costs some ten milliseconds: only call it when a system call is needed.
 */
export function loadLibc(): Promise<Libc | null> {
  loaded ??= load().catch(() => null);
  return loaded;
}

async function load(): Promise<Libc> {
  const { default: koffi } = await import('koffi');
  const library = koffi.load(null);
  return {
    bind(prototype) {
      try {
        return library.func(prototype) as unknown as ForeignFunction;
      } catch (error) {
        if (/^Cannot find function/.test((error as Error).message)) return null;
        throw error;
      }
    },
    errno: () => koffi.errno(),
    address: (buffer) => BigInt(koffi.address(buffer)),
  };
}

const ERRNO_NAMES = new Map(Object.entries(constants.errno).map(([name, number]) => [number, name]));
// Several names for one number: the ones that strerror and Node prefer.
for (const name of ['EAGAIN', 'EOPNOTSUPP'] as const) ERRNO_NAMES.set(constants.errno[name], name);

/** A failed system call, shaped as Node shapes its own: `code` is the errno name. */
export class SystemCallError extends Error {
  readonly code: string;
  readonly syscall: string;

  constructor(syscall: string, code: string) {
    super(`${code}: ${syscall}`);
    this.name = 'SystemCallError';
    this.code = code;
    this.syscall = syscall;
  }
}

export function systemCallError(syscall: string, errno: number): SystemCallError {
  return new SystemCallError(syscall, ERRNO_NAMES.get(errno) ?? `errno ${errno}`);
}

const CANNOT = new Set(['ENOSYS', 'ENOTSUP', 'EOPNOTSUPP', 'ENOTTY', 'ENODEV', 'EINVAL', 'EXDEV', 'EPERM', 'EBADF']);

/**
 * Whether a failed call means "not here, not so" (kernel, file system, alignment) rather than a failing disk: the
 * caller then goes another way.
 */
export function isUnsupported(error: unknown): boolean {
  return CANNOT.has((error as { code?: string } | null)?.code ?? '');
}
