import { tracePoint } from '../../core/trace.ts';
import {
  encodeLogEntry,
  LOG_SECTOR,
  logEntryLength,
  NO_GUID,
  newGuid,
  type SectorUpdate,
} from '../../layouts/vhdx/index.ts';
import { SectorOverlay } from '../../sources/vhdx/overlay.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';
import { Mutex } from '../locks.ts';
import type { VhdxHeaders } from './headers.ts';

/** No entry has more sectors, however long the log is. */
const MAX_UPDATES = 1024;

const traceLog = tracePoint('vhdx_write_log');

/**
 * A file whose structures change through its log (section 2.3). What is written here waits, and reads as written;
 * `commit` brings it to the log and then to its place. An entry is a sequence of its own: what is in the ones before
 * has arrived by then.
 */
export class Journal extends SectorOverlay {
  readonly #headers: VhdxHeaders;
  /** Sectors are read and patched one write at a time: two may share one. */
  readonly #lock = new Mutex();
  readonly #logGuid = newGuid();
  readonly #waiting = new Set<number>();
  #sequence = 0n;
  /** Where, in the log, the next entry goes. */
  #place = 0;

  constructor(storage: Storage, headers: VhdxHeaders) {
    super(storage);
    this.#headers = headers;
  }

  override write(offset: number, buffer: Buffer): Promise<void> {
    return this.#lock.run(async () => {
      const end = offset + buffer.length;
      for (let at = offset - (offset % LOG_SECTOR); at < end; at += LOG_SECTOR) {
        const sector = Buffer.alloc(LOG_SECTOR);
        await readPadded(this, at, sector);
        const from = Math.max(at, offset);
        const changed = buffer.subarray(from - offset, Math.min(end, at + LOG_SECTOR) - offset);
        // A page of a table is written whole for one entry's sake; what is as it was needs no log.
        if (sector.subarray(from - at, from - at + changed.length).equals(changed)) continue;
        changed.copy(sector, from - at);
        this.put(at, sector);
        this.#waiting.add(at);
      }
    });
  }

  override writev(offset: number, buffers: Buffer[]): Promise<void> {
    return this.write(offset, Buffer.concat(buffers));
  }

  /** Something waits for `commit`. */
  get dirty(): boolean {
    return this.#waiting.size > 0;
  }

  /**
   * Logs what waits, and puts it in its place: an interruption leaves the old or the new, and a log that tells the new.
   * What it refers to must be on the disk, and the file as long as it will be.
   */
  async commit(): Promise<void> {
    const most = updatesFor(this.#headers.current.logLength);
    const offsets = [...this.#waiting].sort((left, right) => left - right);
    for (let first = 0; first < offsets.length; first += most) {
      const updates = offsets.slice(first, first + most).map((offset) => ({
        offset,
        bytes: this.sectors.get(offset / LOG_SECTOR) as Buffer,
      }));
      await this.#log(updates);
      await this.#apply(updates);
    }
  }

  async #log(updates: readonly SectorUpdate[]): Promise<void> {
    const { logLength, logOffset, logGuid } = this.#headers.current;
    const length = logEntryLength(updates.length);
    const place = this.#place + length <= logLength ? this.#place : 0;
    const entry = encodeLogEntry({
      logGuid: this.#logGuid,
      sequence: this.#sequence + 1n,
      place,
      fileSize: this.inner.size,
      updates,
    });
    await this.inner.write(logOffset + place, entry);
    await this.inner.flush();
    // Only now: a log that is in use and has no valid entry would make the file corrupt.
    if (logGuid === NO_GUID) await this.#headers.update({ logGuid: this.#logGuid });
    this.#sequence += 1n;
    this.#place = place + length;
    if (traceLog.enabled) {
      traceLog.emit({ file: this.name, sequence: String(this.#sequence), place, sectors: updates.length });
    }
  }

  async #apply(updates: readonly SectorUpdate[]): Promise<void> {
    for (let first = 0; first < updates.length; ) {
      let next = first + 1;
      while (next < updates.length && updates[next].offset === updates[next - 1].offset + LOG_SECTOR) next += 1;
      const run = updates.slice(first, next);
      await this.inner.writev(
        run[0].offset,
        run.map(({ bytes }) => bytes),
      );
      first = next;
    }
    await this.inner.flush();
    for (const { offset } of updates) {
      this.#waiting.delete(offset);
      this.sectors.delete(offset / LOG_SECTOR);
    }
  }
}

/**
 * Sectors that one entry can take: of three entries that follow each other in the ring, no two overlap, so that an
 * entry that is being written never spoils the one before it, which still counts.
 */
function updatesFor(logLength: number): number {
  let most = 1;
  while (most < MAX_UPDATES && logEntryLength(most + 1) <= logLength / 3) most += 1;
  return most;
}
