import { alignDown, alignUp } from '../../core/binary.ts';
import { BufferPool } from '../../core/pool.ts';
import type { DiskCipher } from '../../crypto/sector-cipher.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';

/** Guest bytes at `guest` in the disk, which lie from `host` on in a file. Both are the same within a sector. */
export interface Place {
  guest: number;
  host: number;
}

/** Bytes encrypted and written at once; more goes piece by piece, so that memory stays bounded. */
const PIECE_BYTES = 2 * 1024 * 1024;
/** Pieces kept for the next writes. */
const SPARE_PIECES = 4;

/**
 * Encrypted guest bytes in the clusters of a file: reads and writes ranges that need not be whole sectors. Who writes holds the
 * sectors that the range touches.
 */
export class ClusterCipher {
  readonly #cipher: DiskCipher;
  readonly #ivs: keyof Place;
  readonly #pieces = new BufferPool(PIECE_BYTES, SPARE_PIECES);

  /** @param ivs by which offset the cipher tells sectors apart */
  constructor(cipher: DiskCipher, ivs: keyof Place) {
    this.#cipher = cipher;
    this.#ivs = ivs;
  }

  /** Fills `target`. Where the file ends too early, an ImageError. */
  async read(storage: Storage, place: Place, target: Buffer): Promise<void> {
    const { sectorSize } = this.#cipher;
    const skip = place.guest % sectorSize;
    if (skip === 0 && target.length % sectorSize === 0) {
      await storage.read(place.host, target);
      await this.#cipher.decrypt(target, place[this.#ivs]);
      return;
    }
    const whole = Buffer.allocUnsafe(alignUp(skip + target.length, sectorSize));
    await storage.read(place.host - skip, whole);
    await this.#cipher.decrypt(whole, place[this.#ivs] - skip);
    whole.copy(target, 0, skip, skip + target.length);
  }

  /** Writes the buffers one behind the other; they stay as they are. */
  async write(storage: Storage, place: Place, buffers: readonly Buffer[]): Promise<void> {
    let length = 0;
    for (const buffer of buffers) length += buffer.length;
    const source = new Gatherer(buffers);
    for (let done = 0; done < length; ) {
      const at = { guest: place.guest + done, host: place.host + done };
      const skip = at.guest % this.#cipher.sectorSize;
      const part = Math.min(length - done, PIECE_BYTES - skip);
      await this.#writePiece(storage, at, part, source);
      done += part;
    }
  }

  /** Lets go of threads. */
  close(): Promise<void> {
    return this.#cipher.close();
  }

  async #writePiece(storage: Storage, { guest, host }: Place, length: number, source: Gatherer): Promise<void> {
    const { sectorSize } = this.#cipher;
    const skip = guest % sectorSize;
    const end = skip + length;
    const iv = (this.#ivs === 'host' ? host : guest) - skip;
    const piece = this.#pieces.take();
    try {
      const bytes = piece.subarray(0, alignUp(end, sectorSize));
      const last = alignDown(end, sectorSize);
      if (skip > 0) await this.#readSector(storage, host - skip, iv, bytes.subarray(0, sectorSize));
      if (last < end && (last > 0 || skip === 0)) {
        await this.#readSector(storage, host - skip + last, iv + last, bytes.subarray(last));
      }
      source.take(bytes.subarray(skip, end));
      await this.#cipher.encrypt(bytes, iv);
      await storage.write(host - skip, bytes);
    } finally {
      this.#pieces.give(piece);
    }
  }

  /** What surrounds the bytes to be written in the first or last sector. */
  async #readSector(storage: Storage, host: number, iv: number, sector: Buffer): Promise<void> {
    await readPadded(storage, host, sector);
    await this.#cipher.decrypt(sector, iv);
  }
}

/** Hands out the bytes of some buffers, one after the other. */
class Gatherer {
  readonly #buffers: readonly Buffer[];
  #index = 0;
  #at = 0;

  constructor(buffers: readonly Buffer[]) {
    this.#buffers = buffers;
  }

  take(into: Buffer): void {
    for (let filled = 0; filled < into.length; ) {
      const buffer = this.#buffers[this.#index];
      const copied = buffer.copy(into, filled, this.#at);
      filled += copied;
      this.#at += copied;
      if (this.#at < buffer.length) return;
      this.#index += 1;
      this.#at = 0;
    }
  }
}
