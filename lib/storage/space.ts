import { alignDown, alignUp } from '../core/binary.ts';
import { FALLOCATE, type SystemCalls, systemCalls } from '../syscalls/calls.ts';
import { deviceDiscard, deviceZero } from '../syscalls/device.ts';
import { isUnsupported } from '../syscalls/libc.ts';

/**
 * What the system can do to a file's space without bytes passing through here. Each method tells whether it was
 * done; where not, the caller does it in a portable way. Ranges lie inside the file, but for `allocate`.
 */
export interface Space {
  zero(offset: number, length: number, unmap: boolean): Promise<boolean>;
  discard(offset: number, length: number): Promise<boolean>;
  allocate(offset: number, length: number): Promise<boolean>;
}

type Attempt = () => Promise<void>;

/** Tries ways of doing a thing; one that the system does not know is not tried again. */
class Ways {
  readonly #unknown = new Set<string>();

  async attempt(name: string, attempt: Attempt): Promise<boolean> {
    if (this.#unknown.has(name)) return false;
    try {
      await attempt();
      return true;
    } catch (error) {
      if (!isUnsupported(error)) throw error;
      // EINVAL may be this range's alignment; everything else is the kernel's or the file system's nature.
      if ((error as { code?: string }).code !== 'EINVAL') this.#unknown.add(name);
      return false;
    }
  }
}

/** Space of a regular file: fallocate(2). */
export class FileSpace implements Space {
  readonly #fd: number;
  readonly #ways = new Ways();

  constructor(fd: number) {
    this.#fd = fd;
  }

  /** In QEMU's order: what may be unmapped is punched out, else it becomes allocated zeros (unwritten extents). */
  async zero(offset: number, length: number, unmap: boolean): Promise<boolean> {
    if (unmap && (await this.discard(offset, length))) return true;
    if (await this.#fallocate('zeroRange', FALLOCATE.zeroRange, offset, length)) return true;
    return (await this.discard(offset, length)) && (await this.allocate(offset, length));
  }

  discard(offset: number, length: number): Promise<boolean> {
    return this.#fallocate('punchHole', FALLOCATE.punchHole | FALLOCATE.keepSize, offset, length);
  }

  allocate(offset: number, length: number): Promise<boolean> {
    return this.#fallocate('allocate', FALLOCATE.allocate, offset, length);
  }

  async #fallocate(way: string, mode: number, offset: number, length: number): Promise<boolean> {
    const calls = await systemCalls();
    if (calls === null) return false;
    return this.#ways.attempt(way, () => calls.fallocate(this.#fd, mode, offset, length));
  }
}

/** Devices take whole sectors only; all have sectors of this size or a divisor of it. */
const DEVICE_SECTOR = 4096;

/** Space of a block device: ioctl(2), and fallocate(2) for zeros that may be unmapped. */
export class DeviceSpace implements Space {
  readonly #fd: number;
  readonly #ways = new Ways();

  constructor(fd: number) {
    this.#fd = fd;
  }

  async zero(offset: number, length: number, unmap: boolean): Promise<boolean> {
    const calls = await systemCalls();
    if (calls === null) return false;
    const punch = () => calls.fallocate(this.#fd, FALLOCATE.punchHole | FALLOCATE.keepSize, offset, length);
    if (unmap && (await this.#ways.attempt('punchHole', punch))) return true;
    return this.#ways.attempt('zero', () => deviceZero(calls, this.#fd, offset, length));
  }

  async discard(offset: number, length: number): Promise<boolean> {
    const calls: SystemCalls | null = await systemCalls();
    const first = alignUp(offset, DEVICE_SECTOR);
    const last = alignDown(offset + length, DEVICE_SECTOR);
    if (calls === null || first >= last) return false;
    return this.#ways.attempt('discard', () => deviceDiscard(calls, this.#fd, first, last - first));
  }

  /** A device has all of its space. */
  async allocate(): Promise<boolean> {
    return true;
  }
}
