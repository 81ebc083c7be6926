import { crc32c } from '../../core/crc32c.ts';
import { ensure } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import {
  decodeDescriptor,
  decodeEntryHeader,
  descriptorAt,
  descriptorSectors,
  FIRST_DESCRIPTORS,
  isDataSector,
  LOG_CHECKSUM_AT,
  LOG_SECTOR,
  LOGGED_FROM,
  type LogDescriptor,
  type LogEntryHeader,
  restoreSector,
  SECTOR_DESCRIPTORS,
  type VhdxHeader,
} from '../../layouts/vhdx/index.ts';
import type { Storage } from '../../storage/storage.ts';

/** An entry of the log, at `place` (an offset in the log). */
export interface PlacedEntry extends LogEntryHeader {
  place: number;
}

/** Takes what a log says: sectors of the file, in order. */
export interface LogReceiver {
  put(offset: number, bytes: Buffer): void | Promise<void>;
  clear(offset: number, length: number): void | Promise<void>;
}

/** The log is read in pieces of this size, at the most. */
const PIECE = 1024 * 1024;
/** An entry may be longer than what is in it, where a disk's sectors are larger than the log's; so much is believed. */
const MAX_PADDING = 16 * LOG_SECTOR;

const traceReplay = tracePoint('vhdx_replay_log');

/**
 * The log of a file that was not closed (section 2.3): a ring of entries, of which the active sequence has to be
 * replayed. All lengths are checked against the log's, and the log's against the file's.
 */
export class VhdxLog {
  readonly #storage: Storage;
  readonly #header: VhdxHeader;
  #piece = Buffer.alloc(0);
  #pieceAt = 0;

  /** `corrupt` where the file ends within its log. */
  constructor(storage: Storage, header: VhdxHeader) {
    this.#storage = storage;
    this.#header = header;
    ensure(header.logOffset + header.logLength <= storage.size, 'The log lies past the end of the file', {
      offset: header.logOffset,
    });
  }

  /**
   * Finds the newest complete sequence of entries (section 2.3.3), oldest entry first. A log without entries, or with
   * nothing but a first one that was cut off, is what an interrupted writer leaves: as for QEMU, there is nothing to
   * replay. `corrupt` where an entry says that there were others and none is complete, or where the file is shorter
   * than it was when the sequence was written.
   */
  async activeSequence(): Promise<PlacedEntry[]> {
    const { logLength, logOffset } = this.#header;
    let active: PlacedEntry[] = [];
    let broken = false;
    for (let tail = 0; tail < logLength; ) {
      const run = await this.#runFrom(tail);
      const last = run.at(-1);
      if (last === undefined) {
        broken ||= ((await this.#headerAt(tail))?.sequence ?? 0n) > 1n;
        tail += LOG_SECTOR;
        continue;
      }
      // Where the last entry's tail isn't in the run, it is not in any run that begins later and ends with it either.
      const first = run.findIndex(({ place }) => place === last.tail);
      const newest = active.at(-1)?.sequence ?? 0n;
      if (first >= 0 && last.sequence > newest) active = run.slice(first);
      broken ||= first < 0;
      for (const { length } of run) tail += length;
    }
    const head = active.at(-1);
    ensure(head !== undefined || !broken, 'The log has no valid sequence of entries', { offset: logOffset });
    ensure((head?.flushedFileOffset ?? 0) <= this.#storage.size, 'The file is shorter than its log says', {
      offset: this.#storage.size,
    });
    return active;
  }

  /** Hands the receiver all that the entries say, in their order. `corrupt` for what no entry may change. */
  async replay(entries: readonly PlacedEntry[], receiver: LogReceiver): Promise<void> {
    for (const entry of entries) {
      if (traceReplay.enabled) {
        const { place, descriptors } = entry;
        traceReplay.emit({ file: this.#storage.name, sequence: String(entry.sequence), place, descriptors });
      }
      await this.#replayEntry(entry, receiver);
    }
  }

  /** Entries that follow each other, with consecutive sequence numbers, from `tail` on. */
  async #runFrom(tail: number): Promise<PlacedEntry[]> {
    const { logLength } = this.#header;
    const run: PlacedEntry[] = [];
    let total = 0;
    for (let next = await this.#entryAt(tail); next !== null; next = await this.#entryAt((tail + total) % logLength)) {
      const last = run.at(-1);
      if (total + next.length > logLength || (last !== undefined && next.sequence !== last.sequence + 1n)) break;
      run.push(next);
      total += next.length;
    }
    return run;
  }

  /** The entry there, if a valid one begins there: section 2.3.1, every field and the checksum. */
  async #entryAt(place: number): Promise<PlacedEntry | null> {
    const header = await this.#headerAt(place);
    if (header === null) return null;
    const entry = { ...header, place };
    const dataSectors = await this.#countDataSectors(entry);
    if (dataSectors < 0) return null;
    const told = (descriptorSectors(entry.descriptors) + dataSectors) * LOG_SECTOR;
    if (told > entry.length || entry.length - told > MAX_PADDING) return null;
    return (await this.#hasChecksum(entry, dataSectors)) ? entry : null;
  }

  async #headerAt(place: number): Promise<LogEntryHeader | null> {
    const header = decodeEntryHeader(await this.#sector(place), this.#header.logLength);
    return header?.logGuid === this.#header.logGuid ? header : null;
  }

  /** How many data sectors the entry's descriptors want; -1 where one of them is none. */
  async #countDataSectors(entry: PlacedEntry): Promise<number> {
    let count = 0;
    for (let sector = 0; sector < descriptorSectors(entry.descriptors); sector += 1) {
      for (const descriptor of await this.#descriptors(entry, sector)) {
        if (descriptor === null) return -1;
        if (descriptor.kind === 'data') count += 1;
      }
    }
    return count;
  }

  /** The descriptors in one sector of the entry. */
  async #descriptors({ place, sequence, descriptors }: PlacedEntry, sector: number): Promise<(LogDescriptor | null)[]> {
    const first = sector === 0 ? 0 : FIRST_DESCRIPTORS + (sector - 1) * SECTOR_DESCRIPTORS;
    const end = Math.min(descriptors, FIRST_DESCRIPTORS + sector * SECTOR_DESCRIPTORS);
    const bytes = await this.#sector(place + sector * LOG_SECTOR);
    return Array.from({ length: end - first }, (_, index) =>
      decodeDescriptor(bytes, descriptorAt(first + index) % LOG_SECTOR, sequence),
    );
  }

  async #hasChecksum({ place, length, checksum, descriptors, sequence }: PlacedEntry, dataSectors: number) {
    const firstData = descriptorSectors(descriptors) * LOG_SECTOR;
    let sum = 0;
    for (let at = 0; at < length; at += LOG_SECTOR) {
      const sector = await this.#sector(place + at);
      const isData = at >= firstData && at < firstData + dataSectors * LOG_SECTOR;
      // Looked at first: an entry that lies about its length must not cost a walk over all of the log.
      if (isData && !isDataSector(sector, sequence)) return false;
      sum = crc32c(at === 0 ? withoutChecksum(sector) : sector, sum);
    }
    return sum === checksum;
  }

  async #replayEntry(entry: PlacedEntry, receiver: LogReceiver): Promise<void> {
    const sectors = descriptorSectors(entry.descriptors);
    let data = entry.place + sectors * LOG_SECTOR;
    for (let sector = 0; sector < sectors; sector += 1) {
      for (const descriptor of await this.#descriptors(entry, sector)) {
        ensure(descriptor !== null, 'The log changed while it was read');
        this.#checkRange(descriptor);
        if (descriptor.kind === 'zero') {
          await receiver.clear(descriptor.offset, descriptor.length);
        } else {
          await receiver.put(descriptor.offset, restoreSector(await this.#sector(data), descriptor));
          data += LOG_SECTOR;
        }
      }
    }
  }

  /** Neither the headers nor the log itself change through the log. */
  #checkRange({ offset, length }: { offset: number; length: number }): void {
    const { logOffset, logLength } = this.#header;
    ensure(
      offset >= LOGGED_FROM && (offset + length <= logOffset || offset >= logOffset + logLength),
      'The log would overwrite the headers, or itself',
      { offset },
    );
  }

  /** The sector at `place`, which wraps around at the log's end. */
  async #sector(place: number): Promise<Buffer> {
    const { logOffset, logLength } = this.#header;
    const at = place % logLength;
    if (at < this.#pieceAt || at >= this.#pieceAt + this.#piece.length) {
      const piece = Buffer.allocUnsafeSlow(Math.min(PIECE, logLength - at));
      await this.#storage.read(logOffset + at, piece);
      this.#piece = piece;
      this.#pieceAt = at;
    }
    return this.#piece.subarray(at - this.#pieceAt, at - this.#pieceAt + LOG_SECTOR);
  }
}

function withoutChecksum(sector: Buffer): Buffer {
  const copy = Buffer.from(sector);
  copy.writeUInt32LE(0, LOG_CHECKSUM_AT);
  return copy;
}
