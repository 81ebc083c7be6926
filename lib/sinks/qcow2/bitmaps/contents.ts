import {
  type BitmapDirectoryEntry,
  bitmapShape,
  clearBits,
  decodeBitmapTableEntry,
  encodeBitmapTableEntry,
  setBits,
} from '../../../layouts/qcow2/index.ts';
import { loadBitmap, loadBits, type MarkedRange } from '../../../sources/qcow2/bitmaps.ts';
import type { Qcow2Image } from '../image.ts';
import type { BitmapSpace } from './space.ts';

/** Where the table of a bitmap lies. */
export type TablePlace = Pick<BitmapDirectoryEntry, 'tableOffset' | 'tableEntries'>;

type Ranges = AsyncIterable<MarkedRange> | Iterable<MarkedRange>;

/** The table of a new bitmap, for a disk of `size` guest bytes, with these ranges marked. */
export async function writeNew(
  image: Qcow2Image,
  space: BitmapSpace,
  { size, granularityBits }: { size: number; granularityBits: number },
  ranges: Ranges = [],
): Promise<TablePlace> {
  const { clusterSize } = image.geometry;
  const { tableEntries, bitsPerCluster } = bitmapShape(size, granularityBits, clusterSize);
  const writer = new BitsWriter(image, space, Buffer.alloc(tableEntries * 8));
  await mark(writer, ranges, { granularityBits, bitsPerCluster });
  return writer.finish({ tableOffset: 0, tableEntries });
}

/** Gives up a bitmap's table and its clusters. A table that makes no sense stays: `check` finds what has leaked. */
export async function leaveBitmap(
  image: Qcow2Image,
  space: BitmapSpace,
  entry: BitmapDirectoryEntry,
  table: Buffer,
): Promise<void> {
  for (let index = 0; index * 8 < table.length; index += 1) leaveBits(image, space, table, index);
  if (entry.tableOffset > 0) space.leave(entry.tableOffset, table.length);
}

function leaveBits(image: Qcow2Image, space: BitmapSpace, table: Buffer, index: number): void {
  const { clusterSize } = image.geometry;
  const { offset } = decodeBitmapTableEntry(table, index, clusterSize);
  if (offset > 0) space.leave(offset, clusterSize);
}

/**
 * Writes what a bitmap says with more ranges marked: changed clusters and the table go to new places, the others stay.
 * @param ranges ascending guest ranges inside the disk
 */
export async function writeMarked(
  image: Qcow2Image,
  space: BitmapSpace,
  entry: BitmapDirectoryEntry,
  ranges: Ranges,
): Promise<TablePlace> {
  const { table, bitsPerCluster } = await loadBitmap(image, entry);
  const writer = new BitsWriter(image, space, table);
  await mark(writer, ranges, { granularityBits: entry.granularityBits, bitsPerCluster });
  return writer.finish(entry);
}

async function mark(
  writer: BitsWriter,
  ranges: Ranges,
  { granularityBits, bitsPerCluster }: { granularityBits: number; bitsPerCluster: number },
): Promise<void> {
  const unit = 2 ** granularityBits;
  for await (const { offset, length } of ranges) {
    const to = Math.ceil((offset + length) / unit);
    for (let from = Math.floor(offset / unit); from < to; ) {
      const index = Math.floor(from / bitsPerCluster);
      const first = index * bitsPerCluster;
      const end = Math.min(to, first + bitsPerCluster);
      if (end - from === bitsPerCluster) writer.fill(index);
      else setBits(await writer.at(index), from - first, end - first);
      from = end;
    }
  }
}

/** The same bitmap for a disk of another size; what is added is not marked. Null: the table stays as it is. */
export async function writeResized(
  image: Qcow2Image,
  space: BitmapSpace,
  entry: BitmapDirectoryEntry,
  size: number,
): Promise<TablePlace | null> {
  const { clusterSize } = image.geometry;
  const { table: old, bits, bitsPerCluster } = await loadBitmap(image, entry);
  const { bits: wanted, tableEntries } = bitmapShape(size, entry.granularityBits, clusterSize);
  const writer = new BitsWriter(image, space, old);
  // Bits behind the end mean nothing, until the disk reaches them again.
  const kept = Math.min(bits, wanted);
  const last = Math.ceil(kept / bitsPerCluster) - 1;
  if (last >= 0 && wanted !== bits && kept % bitsPerCluster !== 0 && !isEmpty(old, last, clusterSize)) {
    clearBits(await writer.at(last), kept - last * bitsPerCluster, bitsPerCluster);
  }
  if (tableEntries === entry.tableEntries && !writer.changed) return null;
  for (let index = tableEntries; index < entry.tableEntries; index += 1) leaveBits(image, space, old, index);
  return writer.finish(entry, tableEntries);
}

function isEmpty(table: Buffer, index: number, clusterSize: number): boolean {
  const { offset, allOnes } = decodeBitmapTableEntry(table, index, clusterSize);
  return offset === 0 && !allOnes;
}

/** Changes clusters of bits, in ascending order, and writes them to new places. */
class BitsWriter {
  readonly #image: Qcow2Image;
  readonly #space: BitmapSpace;
  readonly #old: Buffer;
  readonly #table: Buffer;
  /** Changed clusters that are not written yet; the last one may still change. */
  #pending: { index: number; bytes: Buffer }[] = [];
  changed = false;

  constructor(image: Qcow2Image, space: BitmapSpace, old: Buffer) {
    this.#image = image;
    this.#space = space;
    this.#old = old;
    this.#table = Buffer.from(old);
  }

  /** The cluster of bits of table entry `index`, to be changed. */
  async at(index: number): Promise<Buffer> {
    const last = this.#pending.at(-1);
    if (last?.index === index) return last.bytes;
    if (this.#pending.length >= this.#space.piece) await this.#write();
    this.changed = true;
    const { clusterSize } = this.#image.geometry;
    const bytes = (await loadBits(this.#image, this.#old, index)) ?? Buffer.alloc(clusterSize);
    leaveBits(this.#image, this.#space, this.#old, index);
    this.#pending.push({ index, bytes });
    return bytes;
  }

  /** Sets all bits of table entry `index`, which needs no cluster for them. */
  fill(index: number): void {
    this.changed = true;
    leaveBits(this.#image, this.#space, this.#old, index);
    encodeBitmapTableEntry(this.#table, index, { offset: 0, allOnes: true });
  }

  async #write(): Promise<void> {
    const pending = this.#pending;
    this.#pending = [];
    const offsets = await this.#space.writeClusters(pending.map(({ bytes }) => bytes));
    pending.forEach(({ index }, at) => {
      encodeBitmapTableEntry(this.#table, index, { offset: offsets[at], allOnes: false });
    });
  }

  /** Writes the rest and the table; the old table is given up. */
  async finish(entry: TablePlace, tableEntries: number = entry.tableEntries): Promise<TablePlace> {
    if (this.#pending.length > 0) await this.#write();
    const kept = this.#table.subarray(0, Math.min(this.#table.length, tableEntries * 8));
    const tableOffset = await this.#space.writeTable(Buffer.concat([kept], tableEntries * 8));
    if (entry.tableOffset > 0) this.#space.leave(entry.tableOffset, this.#old.length);
    return { tableOffset, tableEntries };
  }
}
