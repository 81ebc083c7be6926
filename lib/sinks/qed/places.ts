import { ImageError } from '../../core/errors.ts';
import { headerBytes, type QedHeader, qedGeometry, readEntry, UNALLOCATED } from '../../layouts/qed/index.ts';

/**
 * Where the tables of an image lie. An L2 entry that points at one of them would have guest data written over it; in
 * an image that lies it does.
 */
export class TablePlaces {
  readonly #tableBytes: number;
  readonly #headerEnd: number;
  /** Host offsets of the tables, ascending. */
  readonly #tables: number[];

  constructor(header: QedHeader, l1: Buffer) {
    this.#tableBytes = qedGeometry(header).tableBytes;
    this.#headerEnd = headerBytes(header);
    this.#tables = [header.l1Offset];
    for (let index = 0; index * 8 < l1.length; index += 1) {
      const table = readEntry(l1, index);
      if (table !== UNALLOCATED) this.#tables.push(table);
    }
    this.#tables.sort((a, b) => a - b);
  }

  /** Throws a `corrupt` ImageError where two tables share bytes. */
  checkApart(file: string): void {
    for (let index = 1; index < this.#tables.length; index += 1) {
      const offset = this.#tables[index];
      if (offset >= this.#tables[index - 1] + this.#tableBytes) continue;
      throw new ImageError('corrupt', 'Tables of the QED image overlap; it cannot be opened read/write', {
        file,
        format: 'qed',
        offset,
      });
    }
  }

  /** Takes in a new table, which lies behind all others. */
  add(offset: number): void {
    this.#tables.push(offset);
  }

  /** Whether the cluster at that offset is part of the header or a table. */
  holds(offset: number): boolean {
    if (offset < this.#headerEnd) return true;
    let [low, high] = [0, this.#tables.length];
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#tables[middle] <= offset) low = middle + 1;
      else high = middle;
    }
    return low > 0 && offset < this.#tables[low - 1] + this.#tableBytes;
  }
}
