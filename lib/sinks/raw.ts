import { alignUp } from '../core/binary.ts';
import { ImageError } from '../core/errors.ts';
import type { ByteReader } from '../core/extent.ts';
import { zeroBlock } from '../core/pool.ts';
import { tracePoint } from '../core/trace.ts';
import { RawSource, type RawWindow, rawWindow, SECTOR } from '../sources/raw.ts';
import type { SourceRequest } from '../sources/source.ts';
import { checkFileTuning, type FileTuning, tuneNewFile } from '../storage/index.ts';
import type { Storage } from '../storage/storage.ts';
import { lockLength } from './lock-length.ts';
import { type FilePreallocation, preallocate } from './preallocate.ts';
import type { Target } from './target.ts';

/** Bytes that QEMU allocates at the start of a new disk. */
const FIRST_BLOCK = 4096;

const traceCreate = tracePoint('raw_create');

/** Options of a new raw image, parsed: those of its file. */
export interface RawCreateOptions extends FileTuning {
  preallocation?: unknown;
}

/**
 * Makes `storage` a raw disk of `size` bytes (rounded up to whole sectors). A file gets its full length in
 * `close` only, so that an unfinished one can be told. What can't be done is refused before the storage is
 * touched; where making it fails later, the caller closes the storage.
 */
export async function createRaw(request: {
  storage: Storage;
  size: number;
  options: RawCreateOptions;
}): Promise<Target> {
  const { storage, options } = request;
  const size = alignUp(request.size, SECTOR);
  const preallocation = preallocationOf(options.preallocation, storage);
  if (traceCreate.enabled) traceCreate.emit({ file: storage.name, size, preallocation });
  const window = { offset: 0, size, fixed: false };
  if (storage.fixedSize) {
    if (size > storage.size) throw refuse('Cannot grow device files', storage);
    return new RawTarget(storage, window, { readsAsZero: false, preallocation });
  }
  checkFileTuning(storage, options);
  if (storage.size > 0) await storage.truncate(0);
  await tuneNewFile(storage, options);
  if (preallocation !== 'full') await allocateFirstBlock(storage, size);
  await preallocate(storage, 0, size - SECTOR, preallocation);
  return new RawTarget(storage, window, { readsAsZero: true, preallocation });
}

/** Opens a raw image for writing. */
export async function openRawTarget({ storage, options }: Pick<SourceRequest, 'storage' | 'options'>): Promise<Target> {
  return new RawTarget(storage, rawWindow(storage, options), null);
}

function preallocationOf(given: unknown, storage: Storage): FilePreallocation {
  const mode = given ?? 'off';
  if (mode === 'metadata') throw refuse('Unsupported preallocation mode: metadata', storage);
  if (mode !== 'off' && mode !== 'falloc' && mode !== 'full') {
    throw new ImageError('invalid', `invalid parameter value: ${String(mode)}`, { format: 'raw', operation: 'create' });
  }
  if (mode !== 'off' && storage.fixedSize) throw refuse(`Unsupported preallocation mode '${mode}'`, storage);
  return mode;
}

function refuse(message: string, storage: Storage): ImageError {
  return new ImageError('unsupported', message, { file: storage.name, format: 'raw', operation: 'create' });
}

/**
 * As QEMU does: where the first block has space, the alignment that O_DIRECT asks for can be found by reading it.
 * Never the whole disk, though, since a new file is not to have its full length yet.
 */
async function allocateFirstBlock(storage: Storage, size: number): Promise<void> {
  const length = size > FIRST_BLOCK ? FIRST_BLOCK : SECTOR;
  if (length < size) await storage.write(0, zeroBlock().subarray(0, length));
}

/** What is known of an image that is being made. */
interface Making {
  readsAsZero: boolean;
  preallocation: FilePreallocation;
}

/** Guest offsets are file offsets, but for the window. */
class RawTarget implements Target {
  readonly format = 'raw';
  readonly name: string;
  readonly granularity = 1;
  readonly sequential = false;
  readonly readsAsZero: boolean;
  readonly source: RawSource;
  readonly #storage: Storage;
  readonly #window: RawWindow;
  /** Null for an image that was there before. */
  readonly #making: Making | null;
  #ended = false;

  constructor(storage: Storage, window: RawWindow, making: Making | null) {
    this.name = storage.name;
    this.readsAsZero = making?.readsAsZero ?? false;
    this.source = new RawSource(storage, window);
    this.#storage = storage;
    this.#window = window;
    this.#making = making;
  }

  get size(): number {
    return this.#window.size;
  }

  async write(offset: number, buffer: Buffer): Promise<void> {
    this.#check('write', offset, buffer.length);
    return this.#storage.write(this.#window.offset + offset, buffer);
  }

  async zero(offset: number, length: number, options?: { unmap?: boolean }): Promise<void> {
    this.#check('zero', offset, length);
    const start = this.#window.offset + offset;
    // What lies beyond the file's end reads as zeros already; a new file is lengthened in close().
    const inside = Math.min(length, this.#storage.size - start);
    if (inside > 0) await this.#storage.zero(start, inside, options);
  }

  async discard(offset: number, length: number): Promise<void> {
    this.#check('discard', offset, length);
    const start = this.#window.offset + offset;
    const inside = Math.min(length, this.#storage.size - start);
    if (inside > 0) await this.#storage.discard(start, inside);
  }

  async copyFrom(offset: number, host: ByteReader, hostOffset: number, length: number): Promise<number> {
    this.#check('write', offset, length);
    return this.#storage.copyFrom(host, hostOffset, this.#window.offset + offset, length);
  }

  async truncate(size: number, options: { preallocation?: string } = {}): Promise<void> {
    const preallocation = preallocationOf(options.preallocation, this.#storage);
    if (this.#window.fixed) {
      throw new ImageError('unsupported', 'Cannot resize fixed-size raw disks', { file: this.name, format: 'raw' });
    }
    const whole = alignUp(size, SECTOR);
    if (this.#making === null) await this.#resize(this.#window.offset + size, preallocation);
    else if (whole < this.size) await this.#truncateStorage(this.#window.offset + whole);
    this.#window.size = whole;
  }

  /**
   * A file that is there gets the very length that was asked for, whole sectors or not. The length first: it is the disk's, and space
   * that is being filled must not show as one of many sizes.
   */
  async #resize(end: number, preallocation: FilePreallocation): Promise<void> {
    await lockLength(this.#storage);
    const old = this.#storage.size;
    try {
      await this.#truncateStorage(end);
      if (preallocation !== 'off') await this.#storage.flush();
      await preallocate(this.#storage, old, end - old, preallocation);
    } catch (error) {
      // What has been added would show as a longer disk.
      if (!this.#storage.fixedSize && this.#storage.size > old && old < end) {
        await this.#storage.truncate(old).catch(() => {});
      }
      throw error;
    }
  }

  flush(): Promise<void> {
    return this.#storage.flush();
  }

  async close(): Promise<void> {
    if (this.#ended) return;
    try {
      await this.#complete();
      await this.#storage.flush();
    } catch (error) {
      await this.abort().catch(() => {});
      throw error;
    }
    this.#ended = true;
    await this.#storage.close();
  }

  /** A file that was there before and can't be removed is emptied: nobody shall take it for a disk. */
  async abort(): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    try {
      if (this.#making !== null && !this.#storage.fixedSize) await this.#storage.truncate(0);
    } finally {
      await this.#storage.close({ discard: this.#making !== null });
    }
  }

  #check(operation: string, offset: number, length: number): void {
    if (offset >= 0 && offset + length <= this.size) return;
    throw new ImageError('invalid', 'The range lies beyond the end of the disk', {
      file: this.name,
      format: 'raw',
      operation,
      offset,
    });
  }

  async #complete(): Promise<void> {
    if (this.#making === null || this.#storage.fixedSize) return;
    const missing = this.size - this.#storage.size;
    if (missing <= 0) return;
    await preallocate(this.#storage, this.size - missing, missing, this.#making.preallocation);
    await this.#truncateStorage(this.size);
  }

  async #truncateStorage(size: number): Promise<void> {
    if (!this.#storage.fixedSize || size > this.#storage.size) await this.#storage.truncate(size);
  }
}
