import { ImageError } from '../core/errors.ts';
import { tracePoint } from '../core/trace.ts';
import { isUnsupported } from '../syscalls/libc.ts';
import { type LockCalls, lockCalls } from '../syscalls/locks.ts';
import type { LockRequest, Permission } from './storage.ts';

/** `file.locking` of a node: `auto` goes on without locks where there are none, `on` does not. */
export type Locking = 'auto' | 'on' | 'off';

// The bytes that QEMU's file-posix driver locks, as its processes show them in /proc/locks: one for each permission
// that somebody uses, and one for each that somebody does not share. Whoever uses what another does not share, or the
// other way round, finds that byte locked.
const USED = 100;
const UNSHARED = 200;
const BITS: Readonly<Record<Permission, number>> = { 'consistent read': 0, write: 1, resize: 3 };

/** What a file without locks answers: no such call, or no server for them (NFS). */
const WITHOUT_LOCKS = new Set(['ENOLCK', 'EPROTONOSUPPORT']);

export interface LockedFile {
  /** For messages. */
  name: string;
  fd: number;
  /** What tells the file from others on this machine. */
  identity: string;
  locking: Locking;
}

const traceLock = tracePoint('file_lock');
const traceUnlocked = tracePoint('file_without_locks');

/** By image and file: the open descriptors of that file, of which the first has the locks of all. */
const members = new WeakMap<object, Map<string, FileLocks[]>>();

/** The locks of one open file: QEMU's, so that its processes and this one leave each other's images alone. */
export class FileLocks {
  readonly #file: LockedFile;
  readonly #held = new Set<number>();
  #group: FileLocks[] = [this];
  #calls: LockCalls | null = null;
  #none: boolean;

  constructor(file: LockedFile) {
    this.#file = file;
    this.#none = file.locking === 'off';
  }

  /** See `Storage.lock`. */
  async acquire(request: LockRequest): Promise<void> {
    if (this.#none || request.uses.length + request.denies.length === 0) return;
    this.#calls = await lockCalls();
    if (this.#calls === null) return this.#goOn('no such system call');
    if (request.image !== undefined) this.#join(request.image);
    this.#group[0].#take(this.#calls, request);
    if (traceLock.enabled) {
      traceLock.emit({ file: this.#file.name, uses: request.uses.join(','), denies: request.denies.join(',') });
    }
  }

  /** Before the descriptor is closed: it may have been handed in, and stay open elsewhere. */
  release(): void {
    const place = this.#group.indexOf(this);
    if (place >= 0) this.#group.splice(place, 1);
    if (place !== 0) return;
    if (this.#group.length > 0) this.#group[0].#inherit(this.#held);
    this.#drop([...this.#held]);
  }

  /** A second descriptor of the same file would stand against the first one's locks. */
  #join(image: object): void {
    const files = members.get(image) ?? new Map<string, FileLocks[]>();
    members.set(image, files);
    const group = files.get(this.#file.identity);
    if (group === undefined) files.set(this.#file.identity, this.#group);
    else if (group !== this.#group) {
      group.push(this);
      this.#group = group;
    }
  }

  #take(calls: LockCalls, { uses, denies }: LockRequest): void {
    const wanted = [...uses.map((each) => USED + BITS[each]), ...denies.map((each) => UNSHARED + BITS[each])];
    const fresh: number[] = [];
    try {
      for (const byte of wanted) if (this.#share(calls, byte)) fresh.push(byte);
      for (const each of uses) this.#refuseIfHeld(calls, UNSHARED + BITS[each], `"${each}"`);
      for (const each of denies) this.#refuseIfHeld(calls, USED + BITS[each], `shared "${each}"`);
    } catch (error) {
      this.#drop(fresh);
      const code = (error as { code?: string }).code ?? '';
      if (error instanceof ImageError || !(isUnsupported(error) || WITHOUT_LOCKS.has(code))) throw error;
      this.#goOn(code);
    }
  }

  /** Whether the lock is new. */
  #share(calls: LockCalls, byte: number): boolean {
    if (this.#held.has(byte)) return false;
    try {
      calls.share(this.#file.fd, byte);
    } catch (error) {
      const { code } = error as { code?: string };
      if (code === 'EAGAIN' || code === 'EACCES') throw this.#refusal(`Failed to lock byte ${byte}`);
      throw error;
    }
    this.#held.add(byte);
    return true;
  }

  #refuseIfHeld(calls: LockCalls, byte: number, what: string): void {
    if (!calls.isHeld(this.#file.fd, byte)) return;
    const hint = `Is another process using the image [${this.#file.name}]?`;
    throw this.#refusal(`Failed to get ${what} lock\n${hint}`);
  }

  #refusal(message: string): ImageError {
    return new ImageError('locked', message, { file: this.#file.name, operation: 'lock' });
  }

  /** Takes over what the one before had; nobody can stand against it. */
  #inherit(held: ReadonlySet<number>): void {
    for (const byte of held) {
      this.#calls?.share(this.#file.fd, byte);
      this.#held.add(byte);
    }
  }

  #drop(bytes: readonly number[]): void {
    for (const byte of bytes) {
      this.#held.delete(byte);
      try {
        this.#calls?.release(this.#file.fd, byte);
      } catch {
        // It ends with the descriptor.
      }
    }
  }

  #goOn(reason: string): void {
    this.#none = true;
    const { name, locking } = this.#file;
    if (traceUnlocked.enabled) traceUnlocked.emit({ file: name, reason });
    if (locking !== 'on') return;
    throw new ImageError('unsupported', `File locks are not to be had here (${reason}), and locking=on demands them`, {
      file: name,
      operation: 'lock',
    });
  }
}
