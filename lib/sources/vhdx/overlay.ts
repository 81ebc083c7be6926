import { ImageError } from '../../core/errors.ts';
import { LOG_SECTOR } from '../../layouts/vhdx/index.ts';
import { type HostRange, readPadded } from '../../storage/storage.ts';
import { WrappedStorage } from '../../storage/wrapped.ts';

/** Sectors kept in memory at the most: 256 MiB of structures, hundreds of times what a log has room for by default. */
const MAX_SECTORS = 64 * 1024;

const ZEROS = Buffer.alloc(LOG_SECTOR);

/** A storage some sectors of which read otherwise than they are: as a log says that they shall be. */
export class SectorOverlay extends WrappedStorage {
  /** By sector number. */
  protected readonly sectors = new Map<number, Buffer>();
  #least = 0;

  override get size(): number {
    return Math.max(this.inner.size, this.#least);
  }

  /** Shows a file of at least that length. */
  extend(size: number): void {
    this.#least = Math.max(this.#least, size);
  }

  /** The sector at `offset` reads as `bytes` from now on. */
  put(offset: number, bytes: Buffer): void {
    this.sectors.set(offset / LOG_SECTOR, bytes);
    this.extend(offset + LOG_SECTOR);
    if (this.sectors.size > MAX_SECTORS) {
      throw new ImageError('unsupported', 'The log holds more than can be kept in memory', { file: this.name });
    }
  }

  /** So many bytes read as zeros from now on. */
  clear(offset: number, length: number): void {
    for (let at = offset; at < offset + length; at += LOG_SECTOR) this.put(at, ZEROS);
  }

  override async read(offset: number, buffer: Buffer): Promise<void> {
    if (offset + buffer.length > this.size) return this.inner.read(offset, buffer);
    await readPadded(this.inner, offset, buffer);
    if (this.sectors.size === 0) return;
    const end = offset + buffer.length;
    for (let sector = Math.floor(offset / LOG_SECTOR); sector * LOG_SECTOR < end; sector += 1) {
      const bytes = this.sectors.get(sector);
      if (bytes === undefined) continue;
      const start = sector * LOG_SECTOR;
      const from = Math.max(offset, start);
      bytes.copy(buffer, from - offset, from - start, Math.min(end, start + LOG_SECTOR) - start);
    }
  }

  /** A hole of the file may lie under a sector that has bytes: nothing is told apart. */
  override async holes(offset: number, length: number): Promise<HostRange[]> {
    const inside = Math.min(offset + length, this.size) - offset;
    return inside > 0 ? [{ offset, length: inside, hole: false }] : [{ offset, length, hole: true }];
  }
}
