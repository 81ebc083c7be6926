import { alignUp } from '../../core/binary.ts';
import { ImageError } from '../../core/errors.ts';
import type { AnyOptionValues } from '../../core/options.ts';
import { BufferPool } from '../../core/pool.ts';
import { tracePoint } from '../../core/trace.ts';
import { Window } from '../../core/window.ts';
import type { Secrets } from '../../crypto/secrets.ts';
import type { DiskCipher } from '../../crypto/sector-cipher.ts';
import { LUKS_SECTOR } from '../../layouts/luks.ts';
import { keySecret } from '../../sources/encryption/key-secret.ts';
import type { Storage } from '../../storage/storage.ts';
import { parseLuksOptions, prepareLuks } from '../encryption/luks.ts';
import type { Target } from '../target.ts';

/** What a driver gets for a container into a pipe (of the shape of formats' StreamRequest). */
export interface LuksStreamRequest {
  storage: Storage;
  /** Guest bytes; null: the disk ends with the last byte that is written or zeroed. */
  size: number | null;
  /** Values of `luksCreateOptions`, and of the file protocol. */
  options: AnyOptionValues;
  secrets?: Secrets;
}

/** Bytes encrypted and written at once, and how many such pieces are under way. */
const PIECE_BYTES = 1024 * 1024;
const PIECES = 4;

const traceStream = tracePoint('luks_stream');

/**
 * Begins a container that is written in one forward pass: the header does not say how long the disk is, so it goes first,
 * with its key slots, and the encrypted disk follows as it comes.
 */
export async function createLuksStream({ storage, size, options, secrets }: LuksStreamRequest): Promise<Target> {
  const { preallocation = 'off', nocow = false, extent_size_hint: hint } = options;
  if ((preallocation !== 'off' && preallocation !== 'metadata') || nocow !== false || hint !== undefined) {
    throw new ImageError('unsupported', 'A pipe has no space to preallocate or to tune', { file: storage.name });
  }
  const settings = parseLuksOptions(options);
  const { bytes, payloadOffset, cipher } = await prepareLuks(settings, keySecret(options['key-secret'], secrets));
  if (traceStream.enabled) traceStream.emit({ file: storage.name, size, payloadOffset });
  await storage.write(0, bytes);
  return new LuksStream(storage, { cipher, payloadOffset, size: size === null ? null : alignUp(size, LUKS_SECTOR) });
}

interface StreamedDisk {
  cipher: DiskCipher;
  payloadOffset: number;
  size: number | null;
}

/** The disk's bytes in guest order, encrypted piece by piece, several at once. Gaps are encrypted zeros. */
class LuksStream implements Target {
  readonly format = 'luks';
  readonly name: string;
  readonly granularity = LUKS_SECTOR;
  readonly readsAsZero = true;
  readonly sequential = true;
  readonly source = null;
  readonly #storage: Storage;
  readonly #disk: StreamedDisk;
  readonly #pool = new BufferPool(PIECE_BYTES, PIECES);
  readonly #window = new Window(PIECES);
  /** First offset that has been neither written nor zeroed. */
  #end = 0;
  /** What is being filled, from guest offset `#start` on. */
  #piece: Buffer;
  #start = 0;
  #filled = 0;
  /** Requests go one after the other, in the order of their calls; and so do the pieces. */
  #turn: Promise<void> = Promise.resolve();
  #sent: Promise<void> = Promise.resolve();
  #ended = false;

  constructor(storage: Storage, disk: StreamedDisk) {
    this.name = storage.name;
    this.#storage = storage;
    this.#disk = disk;
    this.#piece = this.#pool.take();
  }

  get size(): number {
    return this.#disk.size ?? alignUp(this.#end, LUKS_SECTOR);
  }

  /** Resolves when the bytes were taken: they may still have to be encrypted, and a failure shows in a later call. */
  write(offset: number, buffer: Buffer): Promise<void> {
    return this.#next(async () => {
      this.#advance(offset, buffer.length);
      await this.#fill(offset);
      for (let done = 0; done < buffer.length; ) {
        const copied = buffer.copy(this.#piece, this.#filled, done);
        done += copied;
        await this.#took(copied);
      }
    });
  }

  zero(offset: number, length: number): Promise<void> {
    return this.#next(async () => this.#advance(offset, length));
  }

  flush(): Promise<void> {
    return this.#next(async () => {
      await this.#window.drain();
      await this.#storage.flush();
    });
  }

  async close(): Promise<void> {
    if (this.#ended) return;
    try {
      await this.#next(async () => {
        await this.#fill(this.size);
        if (this.#filled > 0) await this.#send();
        await this.#window.drain();
      });
    } catch (error) {
      await this.abort().catch(() => {});
      throw error;
    }
    this.#ended = true;
    await this.#disk.cipher.close();
    await this.#storage.close();
  }

  async abort(): Promise<void> {
    if (this.#ended) return;
    this.#ended = true;
    // What waits for a reader is given up.
    const closing = this.#storage.close({ discard: true });
    await this.#turn;
    await this.#window.settle();
    await this.#disk.cipher.close();
    await closing;
  }

  #next(task: () => Promise<void>): Promise<void> {
    const run = this.#turn.then(task);
    this.#turn = run.catch(() => {});
    return run;
  }

  #advance(offset: number, length: number): void {
    const limit = this.#disk.size ?? Number.MAX_SAFE_INTEGER;
    if (this.#ended || offset < this.#end || offset + length > limit) {
      const message = 'A pipe takes a disk from its start to its end only';
      throw new ImageError('invalid', message, { file: this.name, format: this.format, operation: 'write', offset });
    }
    this.#end = offset + length;
  }

  /** Zeros up to the offset. */
  async #fill(end: number): Promise<void> {
    while (this.#start + this.#filled < end) {
      const length = Math.min(PIECE_BYTES - this.#filled, end - this.#start - this.#filled);
      this.#piece.fill(0, this.#filled, this.#filled + length);
      await this.#took(length);
    }
  }

  async #took(length: number): Promise<void> {
    this.#filled += length;
    if (this.#filled === PIECE_BYTES) await this.#send();
  }

  /** Resolves when the piece is on its way, and there is room for the next one. */
  async #send(): Promise<void> {
    const [piece, offset, length] = [this.#piece, this.#start, this.#filled];
    this.#piece = this.#pool.take();
    this.#start += length;
    this.#filled = 0;
    await this.#window.enter(() => {
      this.#sent = this.#sendAfter(this.#sent, piece.subarray(0, length), offset).then(() => this.#pool.give(piece));
      // Whoever drains the window is told.
      this.#sent.catch(() => {});
      return this.#sent;
    });
  }

  async #sendAfter(before: Promise<void>, bytes: Buffer, offset: number): Promise<void> {
    const { cipher, payloadOffset } = this.#disk;
    const [encrypted, earlier] = await Promise.allSettled([cipher.encrypt(bytes, offset), before]);
    if (encrypted.status === 'rejected') throw encrypted.reason;
    if (earlier.status === 'rejected') throw earlier.reason;
    await this.#storage.write(payloadOffset + offset, bytes);
  }
}
