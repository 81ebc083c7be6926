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
import { ForwardTarget } from '../forward-target.ts';
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
class LuksStream extends ForwardTarget {
  readonly format = 'luks';
  override readonly granularity = LUKS_SECTOR;
  readonly #disk: StreamedDisk;
  readonly #pool = new BufferPool(PIECE_BYTES, PIECES);
  readonly #window = new Window(PIECES);
  /** What is being filled; it ends at guest offset `#taken`. */
  #piece: Buffer;
  #filled = 0;
  #taken = 0;
  /** The pieces go one after the other. */
  #sent: Promise<void> = Promise.resolve();

  constructor(storage: Storage, disk: StreamedDisk) {
    super(storage, disk.size);
    this.#disk = disk;
    this.#piece = this.#pool.take();
  }

  override get size(): number {
    return alignUp(super.size, LUKS_SECTOR);
  }

  /** Resolves when the bytes were taken: they may still have to be encrypted, and a failure shows in a later call. */
  protected override async put(start: number, end: number, bytes: Buffer | null): Promise<void> {
    while (this.#taken < end) {
      const length = Math.min(PIECE_BYTES - this.#filled, end - this.#taken);
      if (bytes === null) this.#piece.fill(0, this.#filled, this.#filled + length);
      else bytes.copy(this.#piece, this.#filled, this.#taken - start);
      this.#filled += length;
      this.#taken += length;
      if (this.#filled === PIECE_BYTES) await this.#send();
    }
  }

  protected override async finish(): Promise<void> {
    await this.fillTo(this.size);
    if (this.#filled > 0) await this.#send();
  }

  protected override drain(): Promise<void> {
    return this.#window.drain();
  }

  protected override async dispose(): Promise<void> {
    await this.#window.settle();
    await this.#disk.cipher.close();
  }

  /** Resolves when the piece is on its way, and there is room for the next one. */
  async #send(): Promise<void> {
    const piece = this.#piece;
    const bytes = piece.subarray(0, this.#filled);
    const offset = this.#taken - this.#filled;
    this.#piece = this.#pool.take();
    this.#filled = 0;
    await this.#window.enter(() => {
      this.#sent = this.#sendAfter(this.#sent, bytes, offset).then(() => this.#pool.give(piece));
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
    await this.storage.write(payloadOffset + offset, bytes);
  }
}
