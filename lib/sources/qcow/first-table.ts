import { TABLE_ENTRY } from '../../layouts/qcow.ts';
import type { Storage } from '../../storage/storage.ts';

/** A part of the table that is held as one: 64 KiB. */
const CHUNK_ENTRIES = 8 * 1024;
const CHUNK_BYTES = CHUNK_ENTRIES * TABLE_ENTRY;
/** Chunks read at once. */
const READ_CHUNKS = 16;
const ZEROS = Buffer.alloc(CHUNK_BYTES);

/**
 * The L1 table in memory. Parts without an entry take none, since the table of a disk of 500 TiB has 2 GiB. Entries
 * can be changed; `takeChanges` tells which parts.
 */
export class FirstTable {
  readonly entries: number;
  readonly #chunks = new Map<number, Buffer>();
  readonly #changed = new Set<number>();

  /** An empty table. */
  constructor(entries: number) {
    this.entries = entries;
  }

  /** Reads the table at `offset`, which lies in the file as a whole. */
  static async read(storage: Storage, offset: number, entries: number): Promise<FirstTable> {
    const table = new FirstTable(entries);
    const length = entries * TABLE_ENTRY;
    const buffer = Buffer.allocUnsafe(Math.min(length, READ_CHUNKS * CHUNK_BYTES));
    for (let at = 0; at < length; at += buffer.length) {
      const piece = buffer.subarray(0, Math.min(buffer.length, length - at));
      await storage.read(offset + at, piece);
      table.#take(at / CHUNK_BYTES, piece);
    }
    return table;
  }

  #take(first: number, piece: Buffer): void {
    for (let at = 0; at < piece.length; at += CHUNK_BYTES) {
      const part = piece.subarray(at, at + CHUNK_BYTES);
      if (part.equals(ZEROS.subarray(0, part.length))) continue;
      this.#chunks.set(first + at / CHUNK_BYTES, Buffer.from(part));
    }
  }

  /** The chunk that holds an entry, and the byte in it; null where all of the chunk is 0. */
  find(index: number): { chunk: Buffer; at: number } | null {
    const chunk = this.#chunks.get(Math.floor(index / CHUNK_ENTRIES));
    return chunk === undefined ? null : { chunk, at: (index % CHUNK_ENTRIES) * TABLE_ENTRY };
  }

  set(index: number, encode: (chunk: Buffer, at: number) => void): void {
    const number = Math.floor(index / CHUNK_ENTRIES);
    let chunk = this.#chunks.get(number);
    if (chunk === undefined) {
      chunk = Buffer.alloc(Math.min(CHUNK_ENTRIES, this.entries - number * CHUNK_ENTRIES) * TABLE_ENTRY);
      this.#chunks.set(number, chunk);
    }
    encode(chunk, (index % CHUNK_ENTRIES) * TABLE_ENTRY);
    this.#changed.add(number);
  }

  /** Sets all entries to 0. */
  clear(): void {
    for (const [number, chunk] of this.#chunks) {
      chunk.fill(0);
      this.#changed.add(number);
    }
  }

  get changed(): boolean {
    return this.#changed.size > 0;
  }

  /** Writes the parts that changed; they count as written only once they are. */
  async write(storage: Storage, offset: number): Promise<void> {
    for (const number of [...this.#changed]) {
      await storage.write(offset + number * CHUNK_BYTES, this.#chunks.get(number) as Buffer);
      this.#changed.delete(number);
    }
  }
}
