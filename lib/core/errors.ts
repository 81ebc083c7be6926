/** What went wrong, in one word a program can act on. */
export type ErrorKind =
  | 'corrupt' // the file contradicts its format, or lies about its own layout
  | 'unsupported' // a valid request or file that this program does not handle
  | 'invalid' // an argument, option or filename that makes no sense
  | 'unknown-format' // no driver recognises the file
  | 'refused' // a gate or a safety check said no
  | 'locked' // another process uses the image
  | 'exists' // the thing to be made is already there
  | 'missing' // no such file, snapshot, bitmap, option
  | 'no-space' // the disk, quota or image is full
  | 'io' // the operating system failed a read, write, flush or close
  | 'aborted'; // a signal or the caller stopped the operation

/** Where it happened. Every field is optional; render only what is known. */
export interface ErrorContext {
  /** The file, as the user named it. */
  file?: string;
  /** Driver name, such as `qcow2`. */
  format?: string;
  /** The verb that failed, such as `read` or `create`. */
  operation?: string;
  /** Byte offset: in the file for `corrupt` and `io`, in the guest otherwise. */
  offset?: number;
  /** `errno` name from the operating system, such as `ENOSPC`. */
  code?: string;
  /** What lies beneath. */
  cause?: unknown;
}

/**
 * The one error class of this library. `message` is a complete clause without the program's
 * name and without a trailing full stop; a caller that knows more wraps it (see `cause`).
 */
export class ImageError extends Error {
  readonly kind: ErrorKind;
  readonly file: string | undefined;
  readonly format: string | undefined;
  readonly operation: string | undefined;
  readonly offset: number | undefined;
  readonly code: string | undefined;

  constructor(kind: ErrorKind, message: string, context: ErrorContext = {}) {
    super(message, context.cause === undefined ? undefined : { cause: context.cause });
    this.name = 'ImageError';
    this.kind = kind;
    this.file = context.file;
    this.format = context.format;
    this.operation = context.operation;
    this.offset = context.offset;
    this.code = context.code;
  }
}

const ERRNO_KINDS: Readonly<Record<string, ErrorKind>> = {
  ENOENT: 'missing',
  EEXIST: 'exists',
  ENOSPC: 'no-space',
  EDQUOT: 'no-space',
  EFBIG: 'no-space',
  EINVAL: 'invalid',
  ENOTSUP: 'unsupported',
  EOPNOTSUPP: 'unsupported',
};

/** An operating-system error (anything with a `code` such as `ENOENT`) as an ImageError. */
export function fromSystemError(error: unknown, context: ErrorContext = {}): ImageError {
  if (error instanceof ImageError) return error;
  const code = (error as { code?: unknown } | null)?.code;
  const name = typeof code === 'string' ? code : undefined;
  const kind = (name !== undefined && ERRNO_KINDS[name]) || 'io';
  const message = name === undefined ? String((error as Error)?.message ?? error) : strerror(name);
  return new ImageError(kind, message, { ...context, code: name, cause: error });
}

// glibc's strerror(3) texts: Node's own differ ("no such file or directory, open …"), and people
// grep for these.
const STRERROR: Readonly<Record<string, string>> = {
  EPERM: 'Operation not permitted',
  ENOENT: 'No such file or directory',
  EINTR: 'Interrupted system call',
  EIO: 'Input/output error',
  ENXIO: 'No such device or address',
  EBADF: 'Bad file descriptor',
  EAGAIN: 'Resource temporarily unavailable',
  ENOMEM: 'Cannot allocate memory',
  EACCES: 'Permission denied',
  EBUSY: 'Device or resource busy',
  EEXIST: 'File exists',
  EXDEV: 'Invalid cross-device link',
  ENODEV: 'No such device',
  ENOTDIR: 'Not a directory',
  EISDIR: 'Is a directory',
  EINVAL: 'Invalid argument',
  ENFILE: 'Too many open files in system',
  EMFILE: 'Too many open files',
  ENOTTY: 'Inappropriate ioctl for device',
  ETXTBSY: 'Text file busy',
  EFBIG: 'File too large',
  ENOSPC: 'No space left on device',
  ESPIPE: 'Illegal seek',
  EROFS: 'Read-only file system',
  EMLINK: 'Too many links',
  EPIPE: 'Broken pipe',
  ERANGE: 'Numerical result out of range',
  ENAMETOOLONG: 'File name too long',
  ENOTSUP: 'Operation not supported',
  EOPNOTSUPP: 'Operation not supported',
  ELOOP: 'Too many levels of symbolic links',
  EDQUOT: 'Disk quota exceeded',
  ESTALE: 'Stale file handle',
  ETIMEDOUT: 'Connection timed out',
  ECONNREFUSED: 'Connection refused',
  ECANCELED: 'Operation canceled',
};

/** The C library's text for an errno name; the name itself when it is not a common one. */
export function strerror(code: string): string {
  return STRERROR[code] ?? code;
}

/** Throws a `corrupt` ImageError unless `condition` holds: the guard for every untrusted field. */
export function ensure(condition: unknown, message: string, context?: ErrorContext): asserts condition {
  if (!condition) throw new ImageError('corrupt', message, context);
}
