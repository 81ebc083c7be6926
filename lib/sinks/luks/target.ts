import { alignUp } from '../../core/binary.ts';
import { ImageError } from '../../core/errors.ts';
import { zeroBlock } from '../../core/pool.ts';
import { tracePoint } from '../../core/trace.ts';
import { Window } from '../../core/window.ts';
import type { DiskCipher } from '../../crypto/sector-cipher.ts';
import { inContext } from '../../sources/context.ts';
import { ClusterCipher } from '../../sources/encryption/cluster-cipher.ts';
import { type LuksContainer, LuksSource } from '../../sources/luks/index.ts';
import type { Storage } from '../../storage/storage.ts';
import { lockLength } from '../lock-length.ts';
import { RangeLocks } from '../locks.ts';
import { type FilePreallocation, preallocate } from '../preallocate.ts';
import type { Target } from '../target.ts';

/** A container that is unlocked. */
export interface OpenContainer extends LuksContainer {
  cipher: DiskCipher;
}

/** What makes a new container one: called when all else is on the disk. */
export type Completion = () => Promise<void>;

/** Zeros that are encrypted and written with one call, and how many such calls are under way. */
const ZERO_BYTES = 1024 * 1024;
const ZEROS_AT_ONCE = 4;
/** What is blanked of a device that a new container was given up on. */
const HEAD_BYTES = 4096;

const traceClose = tracePoint('luks_close');

/**
 * A container open for writing: guest sector n is encrypted into the payload's sector n. Zeros are encrypted too, so that
 * nothing takes less space than any other data, and what was never written reads as noise.
 */
export class LuksTarget implements Target {
  readonly format = 'luks';
  readonly name: string;
  readonly granularity: number;
  readonly sequential = false;
  readonly readsAsZero = false;
  readonly source: LuksSource;
  readonly #storage: Storage;
  readonly #container: OpenContainer;
  readonly #sectors: ClusterCipher;
  readonly #locks = new RangeLocks();
  /** Null for a container that was there before. */
  readonly #complete: Completion | null;
  #size: number;
  #ending: Promise<void> | null = null;

  /** @param size of the disk as it was asked for: the file of a new one ends there, whole sectors or not */
  constructor(storage: Storage, container: OpenContainer, size: number, complete: Completion | null) {
    this.name = storage.name;
    this.granularity = container.sectorSize;
    this.source = new LuksSource(storage, container, () => this.size);
    this.#storage = storage;
    this.#container = container;
    this.#sectors = new ClusterCipher(container.cipher, 'guest');
    this.#size = size;
    this.#complete = complete;
  }

  get size(): number {
    return alignUp(this.#size, this.granularity);
  }

  write(offset: number, buffer: Buffer): Promise<void> {
    return this.#change('write', offset, buffer.length, () => this.#write(offset, buffer.length, [buffer]));
  }

  zero(offset: number, length: number): Promise<void> {
    return this.#change('zero', offset, length, async () => {
      const window = new Window(ZEROS_AT_ONCE);
      try {
        for (let at = offset; at < offset + length; at += ZERO_BYTES) {
          const part = Math.min(ZERO_BYTES, offset + length - at);
          await window.enter(() => this.#write(at, part, zeroBuffers(part)));
        }
        await window.drain();
      } finally {
        await window.settle();
      }
    });
  }

  /** Two writes may share a sector at their ends: the second must read what the first has made of it. */
  async #write(offset: number, length: number, buffers: readonly Buffer[]): Promise<void> {
    const { sectorSize, payloadOffset } = this.#container;
    const first = Math.floor(offset / sectorSize);
    const release = await this.#locks.acquire(first, Math.ceil((offset + length) / sectorSize) - 1);
    try {
      await this.#sectors.write(this.#storage, { guest: offset, host: payloadOffset + offset }, buffers);
    } finally {
      release();
    }
  }

  truncate(size: number, { preallocation = 'off' }: { preallocation?: string } = {}): Promise<void> {
    return this.#change('truncate', 0, 0, async () => {
      const mode = this.#preallocationOf(preallocation);
      const { payloadOffset, payloadSize } = this.#container;
      if (payloadSize !== null) throw this.#unsupported('Cannot resize a container whose disk has a fixed size');
      const end = payloadOffset + size;
      if (this.#storage.fixedSize && end > this.#storage.size) throw this.#unsupported('Cannot grow device files');
      if (this.#complete === null) await this.#resizeFile(end, mode);
      else if (size < this.#size && !this.#storage.fixedSize && end < this.#storage.size) {
        await this.#storage.truncate(payloadOffset + alignUp(size, this.granularity));
      }
      this.#size = size;
    });
  }

  /** As qemu-img does: the file gets the very length, and what is added is not encrypted zeros. */
  async #resizeFile(end: number, mode: FilePreallocation): Promise<void> {
    const old = this.#storage.size;
    if (this.#storage.fixedSize) return;
    await lockLength(this.#storage);
    try {
      await preallocate(this.#storage, old, end - old, mode);
      await this.#storage.truncate(end);
    } catch (error) {
      if (this.#storage.size > old && old < end) await this.#storage.truncate(old).catch(() => {});
      throw error;
    }
  }

  #preallocationOf(mode: string): FilePreallocation {
    if (mode === 'off') return mode;
    const known = mode === 'falloc' || mode === 'full';
    if (known && !this.#storage.fixedSize) return mode;
    throw this.#unsupported(
      known ? `Unsupported preallocation mode '${mode}'` : `Unsupported preallocation mode: ${mode}`,
    );
  }

  flush(): Promise<void> {
    return this.#storage.flush();
  }

  close(): Promise<void> {
    this.#ending ??= this.#close();
    return this.#ending;
  }

  abort(): Promise<void> {
    this.#ending ??= this.#giveUp();
    return this.#ending;
  }

  async #close(): Promise<void> {
    if (traceClose.enabled) traceClose.emit({ file: this.name, size: this.size, fresh: this.#complete !== null });
    try {
      await this.#locks.settle();
      if (this.#complete !== null) {
        await this.#growToEnd();
        await this.#complete();
      }
      await this.#storage.flush();
      await this.#sectors.close();
    } catch (error) {
      await this.#giveUp().catch(() => {});
      throw inContext(error, this.name, this.format);
    }
    await this.#storage.close();
  }

  /** The length of the file tells the size of the disk; sectors that were written are whole, and stay so. */
  async #growToEnd(): Promise<void> {
    const end = this.#container.payloadOffset + this.#size;
    if (!this.#storage.fixedSize && this.#storage.size < end) await this.#storage.truncate(end);
  }

  /** A file that was there before stays, and a device: nobody shall take what is in it for a container. */
  async #giveUp(): Promise<void> {
    const storage = this.#storage;
    const isNew = this.#complete !== null;
    await this.#locks.settle();
    await this.#sectors.close();
    try {
      if (isNew) await (storage.fixedSize ? storage.write(0, Buffer.alloc(HEAD_BYTES)) : storage.truncate(0));
    } finally {
      await storage.close({ discard: isNew });
    }
  }

  async #change(operation: string, offset: number, length: number, work: () => Promise<void>): Promise<void> {
    const context = { file: this.name, format: this.format, operation, offset };
    if (this.#ending !== null) throw new ImageError('io', 'The image is closed', context);
    if (offset < 0 || length < 0 || offset + length > this.size) {
      throw new ImageError('invalid', 'The range lies beyond the end of the disk', context);
    }
    try {
      await work();
    } catch (error) {
      throw inContext(error, this.name, this.format);
    }
  }

  #unsupported(message: string): ImageError {
    return new ImageError('unsupported', message, { file: this.name, format: this.format });
  }
}

function zeroBuffers(length: number): Buffer[] {
  const block = zeroBlock();
  const buffers: Buffer[] = [];
  for (let at = 0; at < length; at += block.length) buffers.push(block.subarray(0, length - at));
  return buffers;
}
