import { ImageError } from '../../core/errors.ts';
import type { ByteReader } from '../../core/extent.ts';
import { DiskType, FOOTER_SIZE } from '../../layouts/vpc/index.ts';
import { FixedSource } from '../../sources/vpc/fixed.ts';
import type { Storage } from '../../storage/storage.ts';
import type { Target } from '../target.ts';
import { newFooter } from './new-head.ts';
import { type DiskShape, shapeOf, type VpcSettings } from './options.ts';

/** What is known of an image that is being made: null for one that exists. */
interface Making {
  shape: DiskShape;
  settings: VpcSettings;
}

/** A fixed disk: guest offsets are file offsets, and a new one gets its length and its footer at the end. */
export class FixedTarget implements Target {
  readonly format = 'vpc';
  readonly name: string;
  readonly granularity = 1;
  readonly sequential = false;
  readonly readsAsZero: boolean;
  readonly source: FixedSource;
  readonly truncate?: (size: number) => Promise<void>;
  readonly #storage: Storage;
  readonly #making: Making | null;
  #size: number;
  #ended = false;

  private constructor(storage: Storage, size: number, making: Making | null) {
    this.name = storage.name;
    this.#storage = storage;
    this.#size = size;
    this.#making = making;
    this.readsAsZero = making !== null && !storage.fixedSize;
    this.source = new FixedSource(
      storage,
      () => this.#size,
      () => this.#size,
    );
    if (making !== null) this.truncate = (length) => this.#truncate(length, making);
  }

  /** An image that exists, whose `size` bytes are all in the file. */
  static existing(storage: Storage, size: number): FixedTarget {
    return new FixedTarget(storage, size, null);
  }

  /** A new one, in a file that is empty. */
  static create(storage: Storage, shape: DiskShape, settings: VpcSettings): FixedTarget {
    checkRoom(storage, shape.size);
    return new FixedTarget(storage, shape.size, { shape, settings });
  }

  get size(): number {
    return this.#size;
  }

  async write(offset: number, buffer: Buffer): Promise<void> {
    this.#check('write', offset, buffer.length);
    return this.#storage.write(offset, buffer);
  }

  async zero(offset: number, length: number, options?: { unmap?: boolean }): Promise<void> {
    this.#check('zero', offset, length);
    // What lies beyond a new file's end reads as zeros already.
    const inside = Math.min(length, this.#storage.size - offset);
    if (inside > 0) await this.#storage.zero(offset, inside, options);
  }

  async discard(offset: number, length: number): Promise<void> {
    this.#check('discard', offset, length);
    const inside = Math.min(length, this.#storage.size - offset);
    if (inside > 0) await this.#storage.discard(offset, inside);
  }

  async copyFrom(offset: number, host: ByteReader, hostOffset: number, length: number): Promise<number> {
    this.#check('write', offset, length);
    return this.#storage.copyFrom(host, hostOffset, offset, length);
  }

  flush(): Promise<void> {
    return this.#storage.flush();
  }

  async close(): Promise<void> {
    if (this.#ended) return;
    try {
      if (this.#making !== null) await this.#complete(this.#making);
      await this.#storage.flush();
    } catch (error) {
      await this.abort().catch(() => {});
      throw error;
    }
    this.#ended = true;
    await this.#storage.close();
  }

  async abort(): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    const isNew = this.#making !== null;
    try {
      if (isNew) await this.#blank();
    } finally {
      await this.#storage.close({ discard: isNew });
    }
  }

  /** A file that was there before, or a device, can't be removed: nobody shall take it for a disk. */
  #blank(): Promise<void> {
    const storage = this.#storage;
    return storage.fixedSize ? storage.write(this.#footerOffset(), Buffer.alloc(FOOTER_SIZE)) : storage.truncate(0);
  }

  async #complete({ shape }: Making): Promise<void> {
    const storage = this.#storage;
    if (!storage.fixedSize && storage.size !== this.#size) await storage.truncate(this.#size);
    await storage.flush();
    await storage.write(this.#footerOffset(), newFooter(shape, DiskType.fixed));
  }

  /** At the very end, where readers look for it. */
  #footerOffset(): number {
    return this.#storage.fixedSize ? this.#storage.size - FOOTER_SIZE : this.#size;
  }

  async #truncate(length: number, making: Making): Promise<void> {
    const shape = shapeOf(length, making.settings);
    checkRoom(this.#storage, shape.size);
    const isShorter = !this.#storage.fixedSize && shape.size < this.#storage.size;
    if (isShorter) await this.#storage.truncate(shape.size);
    making.shape = shape;
    this.#size = shape.size;
  }

  #check(operation: string, offset: number, length: number): void {
    if (!this.#ended && offset >= 0 && length >= 0 && offset + length <= this.size) return;
    const message = this.#ended ? 'The image is closed' : 'The range lies beyond the end of the disk';
    throw new ImageError(this.#ended ? 'io' : 'invalid', message, {
      file: this.name,
      format: this.format,
      operation,
      offset,
    });
  }
}

function checkRoom(storage: Storage, size: number): void {
  if (!storage.fixedSize || size + FOOTER_SIZE <= storage.size) return;
  throw new ImageError('no-space', 'The device has no room for the disk and its footer', {
    file: storage.name,
    format: 'vpc',
    operation: 'create',
  });
}
