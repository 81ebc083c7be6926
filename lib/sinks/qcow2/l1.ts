import { decodeL1Entry, encodeEntry, type L1Entry } from '../../layouts/qcow2/index.ts';
import type { PageImage } from '../pages.ts';

/** The active L1 table in memory, and which of its entries differ from those on the disk. */
export class ActiveL1 {
  readonly #clusterSize: number;
  #bytes: Buffer;
  /** Entries [from, to) that changed. */
  #from = Number.POSITIVE_INFINITY;
  #to = 0;

  /** @param bytes the table, as long as the header says */
  constructor(bytes: Buffer, clusterSize: number) {
    this.#bytes = bytes;
    this.#clusterSize = clusterSize;
  }

  /** The table itself, for reading. */
  get bytes(): Buffer {
    return this.#bytes;
  }

  get entries(): number {
    return this.#bytes.length / 8;
  }

  /** What an entry says; `corrupt` where it can't be right. */
  entry(index: number): L1Entry {
    return decodeL1Entry(this.#bytes, index * 8, this.#clusterSize);
  }

  /** Sets an entry: the table's host offset (0: none), and whether the active disk alone has it. */
  set(index: number, offset: number, copied: boolean): void {
    encodeEntry(this.#bytes, index * 8, offset, { copied });
    this.#from = Math.min(this.#from, index);
    this.#to = Math.max(this.#to, index + 1);
  }

  /** Takes another table, which has been written where the header will find it. */
  replace(bytes: Buffer): void {
    this.#bytes = bytes;
  }

  /**
   * A copy of what has to be written, which counts as written from now on; null where nothing changed.
   * @param offset where the table lies
   */
  takeDirty(offset: number): PageImage | null {
    if (this.#from >= this.#to) return null;
    const [from, to] = [this.#from * 8, this.#to * 8];
    this.#from = Number.POSITIVE_INFINITY;
    this.#to = 0;
    return { offset: offset + from, bytes: Buffer.from(this.#bytes.subarray(from, to)) };
  }

  /** After a failed write: the table has to be written again. */
  markDirty(): void {
    this.#from = 0;
    this.#to = this.entries;
  }
}
