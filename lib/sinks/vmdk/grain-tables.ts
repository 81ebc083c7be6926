import { ensure } from '../../core/errors.ts';
import { ENTRY_BYTES, SECTOR, type SparseHeader } from '../../layouts/vmdk/index.ts';
import { Block } from '../../sources/block-table.ts';
import type { GrainShape } from '../../sources/vmdk/grain-shape.ts';
import type { WritableShape } from '../blocks/tables.ts';

export interface GrainTablesOptions {
  shape: GrainShape;
  header: SparseHeader & { directory: number };
  /** The copy of the grain directory; null: the extent has none. */
  redundant: Buffer | null;
  /** Finds room for a table; returns its host offset. */
  reserve(bytes: number): number;
}

/** Grain tables that can be changed, each with its copy where the extent keeps copies. */
export class GrainTables implements WritableShape {
  readonly blocks: number;
  readonly pageEntries: number;
  readonly entrySize = ENTRY_BYTES;
  readonly #options: GrainTablesOptions;
  /** How far behind a table its copy lies, where that is the same for all; else `#mirrors` tells. */
  readonly #distance: number | null;
  readonly #mirrors = new Map<number, number>();
  /** Tables that the directories in the file do not name yet. */
  #made: number[] = [];

  constructor(options: GrainTablesOptions) {
    const { shape, redundant } = options;
    this.#options = options;
    this.blocks = shape.blocks;
    this.pageEntries = shape.pageEntries;
    this.#distance = redundant === null ? 0 : distanceOf(shape.directory, redundant);
    if (redundant !== null && this.#distance === null) this.#listMirrors(redundant);
  }

  pageOffset(page: number): number {
    const offset = this.#options.shape.pageOffset(page);
    if (offset < 0) return offset;
    this.#check(offset);
    return offset;
  }

  decode(bytes: Buffer, index: number): number {
    return this.#options.shape.decode(bytes, index);
  }

  encode(bytes: Buffer, index: number, state: number): void {
    const sector = state === Block.unallocated ? 0 : state === Block.zero ? 1 : state / SECTOR;
    bytes.writeUInt32LE(sector, index * ENTRY_BYTES);
  }

  async makePage(page: number): Promise<number> {
    const { shape, redundant, reserve } = this.#options;
    const bytes = this.pageEntries * ENTRY_BYTES;
    const offset = reserve(redundant === null ? bytes : 2 * bytes);
    shape.directory.writeUInt32LE(offset / SECTOR, page * ENTRY_BYTES);
    if (redundant !== null) {
      redundant.writeUInt32LE((offset + bytes) / SECTOR, page * ENTRY_BYTES);
      this.#mirrors.set(offset, offset + bytes);
    }
    this.#made.push(page);
    return offset;
  }

  /** Where the copy of the table at `offset` lies. */
  mirrors(offset: number): number[] {
    const mirror = this.#mirrors.get(offset) ?? (this.#distance === null ? undefined : offset + this.#distance);
    if (mirror === undefined || mirror === offset) return [];
    this.#check(mirror);
    return [mirror];
  }

  /** Directory entries that are to be written, now that their tables are. */
  takeDirty(): { offset: number; bytes: Buffer }[] {
    const { shape, redundant, header } = this.#options;
    const made = this.#made;
    this.#made = [];
    return made.flatMap((page) => {
      const at = page * ENTRY_BYTES;
      const entry = (sector: number, bytes: Buffer) => ({
        offset: sector * SECTOR + at,
        bytes: Buffer.from(bytes.subarray(at, at + ENTRY_BYTES)),
      });
      const own = entry(header.directory, shape.directory);
      return redundant === null ? [own] : [entry(header.redundantDirectory, redundant), own];
    });
  }

  #listMirrors(redundant: Buffer): void {
    const { directory } = this.#options.shape;
    for (let at = 0; at < directory.length; at += ENTRY_BYTES) {
      const mirror = redundant.readUInt32LE(at);
      if (mirror !== 0) this.#mirrors.set(directory.readUInt32LE(at) * SECTOR, mirror * SECTOR);
    }
  }

  /** A table that is written must not be taken for what else there is. */
  #check(offset: number): void {
    const { header, shape } = this.#options;
    const end = offset + this.pageEntries * ENTRY_BYTES;
    const overlaps = (sector: number, bytes: number) => offset < sector * SECTOR + bytes && end > sector * SECTOR;
    const hits =
      overlaps(0, SECTOR) ||
      overlaps(header.descriptorSector, header.descriptorSectors * SECTOR) ||
      overlaps(header.directory, shape.directory.length) ||
      overlaps(header.redundantDirectory, this.#options.redundant?.length ?? 0);
    ensure(!hits, "A grain table overlaps the extent's other metadata", { offset });
  }
}

/** By how many bytes each table's copy lies behind it; null where that differs, or where one of the two is missing. */
function distanceOf(directory: Buffer, redundant: Buffer): number | null {
  let distance: number | null = null;
  for (let at = 0; at < directory.length; at += ENTRY_BYTES) {
    const [own, copy] = [directory.readUInt32LE(at), redundant.readUInt32LE(at)];
    if (own === 0 && copy === 0) continue;
    if (own === 0 || copy === 0) return null;
    distance ??= copy - own;
    if (distance !== copy - own) return null;
  }
  return distance === null ? null : distance * SECTOR;
}
