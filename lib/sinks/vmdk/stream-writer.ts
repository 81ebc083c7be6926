import { ImageError } from '../../core/errors.ts';
import { allSettled, Turns } from '../../core/turns.ts';
import {
  ENTRY_BYTES,
  encodeGrain,
  encodeMetadataMarker,
  encodeSparseHeader,
  MAX_HOST_BYTES,
  MarkerType,
  SECTOR,
  type SparseHeader,
} from '../../layouts/vmdk/index.ts';
import { GrainShape, rulesOf } from '../../sources/vmdk/grain-shape.ts';
import type { Storage } from '../../storage/storage.ts';
import { Mutex } from '../locks.ts';
import { PackedWriter } from '../packed-writer.ts';
import { packGrain } from './grain-compressor.ts';
import { type StreamTable, StreamTables } from './stream-tables.ts';

export interface StreamWriterOptions {
  storage: Storage;
  header: SparseHeader;
  /** The grain directory in memory. */
  directory: Buffer;
  /** Its copy, with tables of their own, where the extent has one. */
  redundant: Buffer | null;
  /** Where the next grain goes; whole sectors. */
  position: number;
  /** A new extent: each table goes behind its grains. Else the image has to stay whole at any moment. */
  fresh: boolean;
}

/** Grains in compression at once: enough for every thread, and the next ones. */
const AT_ONCE = 16;

/**
 * Appends compressed grains to a stream-optimized extent (Virtual Disk Format 5.0, "Stream-Optimized Compressed Sparse
 * Extents"): compression runs side by side, and what comes out goes into the file in the order of the calls. A grain
 * that is written again leaves its old place unused.
 */
export class StreamWriter {
  readonly tables: StreamTables;
  readonly lock = new Mutex();
  readonly #options: StreamWriterOptions;
  readonly #packed: PackedWriter;
  readonly #turns = new Turns(AT_ONCE);
  readonly #pending = new Set<Promise<void>>();
  #tail: Promise<void> = Promise.resolve();
  #position: number;
  /** The table that grains were last added to. */
  #current = -1;
  /** Directory entries that the file does not have yet. */
  #made: number[] = [];

  constructor(options: StreamWriterOptions) {
    this.#options = options;
    this.#position = options.position;
    this.#packed = new PackedWriter(options.storage);
    this.tables = new StreamTables(options.storage, new GrainShape(rulesOf(options.header), options.directory));
  }

  /** Compresses one whole grain; several at once. */
  compress(plain: Buffer): Promise<Buffer> {
    return this.#turns.run(() => packGrain(plain));
  }

  /**
   * Appends a grain when it is compressed and those of earlier calls are placed. Resolves when it is placed, to the promise
   * of its being written.
   */
  place(block: number, packing: Promise<Buffer>): Promise<{ written: Promise<void> }> {
    const before = this.#tail;
    const placed = (async () => {
      const packed = await packing.catch(async (error) => {
        await before;
        throw error;
      });
      await before;
      return this.lock.run(() => this.#append(block, packed));
    })();
    this.#tail = placed.then(
      () => {},
      () => {},
    );
    return placed;
  }

  /** Sets an entry that needs no grain: 0 (nothing there) or 1 (zeros). */
  async mark(block: number, sector: 0 | 1): Promise<void> {
    await this.#tail;
    await this.lock.run(async () => {
      const table = await this.#tableFor(block);
      if (this.tables.get(table, block) !== sector) this.tables.set(table, block, sector);
    });
  }

  /** All that was placed is in the file, and then what refers to it. */
  async commit(): Promise<void> {
    await this.#tail;
    await this.lock.run(() => this.#commit());
  }

  /** Waits for what is under way. */
  async settle(): Promise<void> {
    await this.#tail;
    await Promise.allSettled(this.#pending);
  }

  /** Completes a new extent: directory, footer, end of stream. Returns the header as the footer has it. */
  async finish(): Promise<void> {
    await this.#tail;
    await this.lock.run(async () => {
      await this.#writeTables();
      const { directory, header } = this.#options;
      const sectors = Math.ceil(directory.length / SECTOR);
      const padded = Buffer.alloc(sectors * SECTOR);
      directory.copy(padded);
      await this.#appendRaw(encodeMetadataMarker(MarkerType.grainDirectory, sectors));
      const footer = { ...header, directory: this.#position / SECTOR };
      await this.#appendRaw(padded);
      await this.#appendRaw(encodeMetadataMarker(MarkerType.footer, 1));
      await this.#appendRaw(encodeSparseHeader(footer));
      await this.#appendRaw(encodeMetadataMarker(MarkerType.endOfStream, 0));
    });
  }

  async #append(block: number, packed: Buffer): Promise<{ written: Promise<void> }> {
    const table = await this.#tableFor(block);
    const bytes = encodeGrain(block * this.#options.header.grainSectors, packed);
    const offset = this.#reserve(bytes.length);
    const old = this.tables.get(table, block);
    this.tables.set(table, block, offset / SECTOR);
    const written = this.#packed.write(offset, bytes).catch((error) => {
      if (this.tables.get(table, block) === offset / SECTOR) this.tables.set(table, block, old);
      throw error;
    });
    this.#track(written);
    return { written };
  }

  /** The table for a change; tables that are complete, as far as can be told, are written first. */
  async #tableFor(block: number): Promise<StreamTable> {
    const index = this.tables.tableOf(block);
    const { fresh } = this.#options;
    if (fresh && index !== this.#current) await this.#writeTables();
    if (!fresh && this.tables.full) await this.#commit();
    this.#current = index;
    return this.tables.table(block);
  }

  async #commit(): Promise<void> {
    const { fresh, storage } = this.#options;
    await allSettled([...this.#pending]);
    // Where grains are still to come, a new extent's last table waits for them.
    if (fresh) return;
    if (this.tables.dirty().length > 0) await storage.flush();
    await this.#writeTables();
    await this.#writeDirectory();
  }

  /** A table goes to the end where it has no place, else where it was. */
  async #writeTables(): Promise<void> {
    const { storage, directory, redundant } = this.#options;
    for (const table of this.tables.dirty()) {
      const at = table.index * ENTRY_BYTES;
      const sector = directory.readUInt32LE(at);
      if (sector === 0) {
        await this.#appendRaw(encodeMetadataMarker(MarkerType.grainTable, table.bytes.length / SECTOR));
        directory.writeUInt32LE(this.#position / SECTOR, at);
        await this.#appendRaw(Buffer.from(table.bytes));
        this.#made.push(table.index);
      } else {
        await allSettled([...this.#pending]);
        const copy = redundant?.readUInt32LE(at) ?? 0;
        for (const place of copy === 0 ? [sector] : [copy, sector]) {
          await storage.write(this.#checkedTable(place), table.bytes);
        }
      }
      table.dirty = false;
    }
  }

  /** What a directory names as a table must not be the header or the descriptor: it is about to be overwritten. */
  #checkedTable(sector: number): number {
    const { descriptorSector, descriptorSectors } = this.#options.header;
    if (sector >= Math.max(1, descriptorSector + descriptorSectors)) return sector * SECTOR;
    throw new ImageError('corrupt', "A grain table overlaps the extent's other metadata", { offset: sector * SECTOR });
  }

  async #writeDirectory(): Promise<void> {
    const { storage, directory, header } = this.#options;
    if (this.#made.length === 0) return;
    await allSettled([...this.#pending]);
    await storage.flush();
    const made = this.#made;
    this.#made = [];
    for (const index of made) {
      const at = index * ENTRY_BYTES;
      await storage.write((header.directory ?? 0) * SECTOR + at, directory.subarray(at, at + ENTRY_BYTES));
    }
  }

  /** Appends metadata, behind all that was placed before. */
  async #appendRaw(bytes: Buffer): Promise<void> {
    await this.#packed.write(this.#reserve(bytes.length), bytes);
  }

  #reserve(bytes: number): number {
    const offset = this.#position;
    if (offset + bytes > MAX_HOST_BYTES) {
      throw new ImageError('no-space', 'A sparse extent cannot hold more than 2 TiB', { operation: 'write' });
    }
    this.#position = offset + bytes;
    return offset;
  }

  #track(written: Promise<void>): void {
    this.#pending.add(written);
    const done = () => this.#pending.delete(written);
    written.then(done, done);
  }
}
