import { BitSet } from '../../core/bit-set.ts';
import {
  ENTRY_BYTES,
  headerBytes,
  type QedHeader,
  qedGeometry,
  readEntry,
  UNALLOCATED,
  writeEntry,
  ZERO,
} from '../../layouts/qed/index.ts';
import { readPadded, type Storage } from '../../storage/storage.ts';

/** What a walk through all tables of an image counts. Clusters, or entries that point to them. */
export interface QedFindings {
  /** Entries that point nowhere, and were left so. */
  wrong: number;
  /** Entries that pointed nowhere. */
  fixed: number;
  /** Clusters that somebody else uses too: nobody can tell whose they are. */
  shared: number;
  leaks: number;
  /** Entries of L2 tables with a place, whatever it is. */
  allocated: number;
  /** Those that don't lie behind the one before. */
  fragmented: number;
}

/** Tables are read in pieces of at most this many bytes: an L1 table may have 1 GiB. */
const PIECE_BYTES = 1024 * 1024;

/**
 * Looks at each entry of the L1 and L2 tables, and counts as QEMU does. With `fix`, entries that point nowhere become
 * unallocated, each by a write of its own that is right without the others. Where the file ends within a cluster that
 * is used, QEMU drops the cluster; here the file gets longer instead, and nothing is lost.
 */
export async function walkQed(storage: Storage, header: QedHeader, fix: boolean): Promise<QedFindings> {
  return new Walk(storage, header, fix).run();
}

type Place = 'good' | 'cut' | 'bad';

class Walk {
  readonly #storage: Storage;
  readonly #header: QedHeader;
  readonly #fix: boolean;
  readonly #used = new BitSet();
  readonly #found: QedFindings = { wrong: 0, fixed: 0, shared: 0, leaks: 0, allocated: 0, fragmented: 0 };
  readonly #piece: Buffer;
  /** Host offset of the data cluster before. */
  #last = 0;
  /** Bytes of whole clusters in the file. */
  #end: number;

  constructor(storage: Storage, header: QedHeader, fix: boolean) {
    this.#storage = storage;
    this.#header = header;
    this.#fix = fix;
    this.#piece = Buffer.alloc(Math.min(PIECE_BYTES, qedGeometry(header).tableBytes));
    this.#end = storage.size - (storage.size % header.clusterSize);
  }

  async run(): Promise<QedFindings> {
    const { l1Offset, tableClusters, headerClusters, clusterSize } = this.#header;
    this.#take(l1Offset, tableClusters);
    await this.#eachPiece(l1Offset, Buffer.alloc(this.#piece.length), (l1) => this.#walkL1(l1));
    this.#found.leaks = Math.max(0, this.#end / clusterSize - headerClusters - this.#used.size);
    return this.#found;
  }

  async #walkL1(l1: Buffer): Promise<boolean> {
    const { tableClusters } = this.#header;
    let changed = false;
    for (let index = 0; index * ENTRY_BYTES < l1.length; index += 1) {
      const table = readEntry(l1, index);
      if (table === UNALLOCATED) continue;
      if (!(await this.#accept(this.#placeOf(table, tableClusters)))) {
        if (this.#fix) writeEntry(l1, index, UNALLOCATED);
        changed ||= this.#fix;
      } else if (this.#take(table, tableClusters)) {
        await this.#eachPiece(table, this.#piece, (l2) => this.#walkL2(l2));
      }
    }
    return changed;
  }

  async #walkL2(l2: Buffer): Promise<boolean> {
    const { clusterSize } = this.#header;
    const found = this.#found;
    let changed = false;
    for (let index = 0; index * ENTRY_BYTES < l2.length; index += 1) {
      const host = readEntry(l2, index);
      if (host === UNALLOCATED || host === ZERO) continue;
      found.allocated += 1;
      if (this.#last !== 0 && this.#last + clusterSize !== host) found.fragmented += 1;
      this.#last = host;
      const place = this.#placeOf(host, 1);
      if (place === 'good' || (await this.#accept(place))) {
        this.#take(host, 1);
        continue;
      }
      if (this.#fix) writeEntry(l2, index, UNALLOCATED);
      changed ||= this.#fix;
    }
    return changed;
  }

  #placeOf(offset: number, clusters: number): Place {
    const { clusterSize } = this.#header;
    if (offset % clusterSize !== 0 || offset < headerBytes(this.#header)) return 'bad';
    const end = offset + clusters * clusterSize;
    if (end <= this.#end) return 'good';
    return end === this.#end + clusterSize && this.#storage.size > this.#end ? 'cut' : 'bad';
  }

  /** Counts what is wrong, and says whether the place holds something now. */
  async #accept(place: Place): Promise<boolean> {
    if (place === 'good') return true;
    const found = this.#found;
    if (!this.#fix) {
      found.wrong += 1;
      return false;
    }
    found.fixed += 1;
    if (place === 'bad' || this.#storage.fixedSize) return false;
    await this.#storage.truncate(this.#end + this.#header.clusterSize);
    this.#end += this.#header.clusterSize;
    return true;
  }

  /** Notes that so many clusters are used; false where some were used before. */
  #take(offset: number, clusters: number): boolean {
    const first = offset / this.#header.clusterSize;
    let shared = 0;
    for (let cluster = first; cluster < first + clusters; cluster += 1) {
      if (!this.#used.add(cluster)) shared += 1;
    }
    this.#found.shared += shared;
    return shared === 0;
  }

  /** Shows a table piece by piece, and writes back those that were changed (`use` says so). */
  async #eachPiece(table: number, piece: Buffer, use: (piece: Buffer) => Promise<boolean>): Promise<void> {
    const { tableBytes } = qedGeometry(this.#header);
    for (let at = 0; at < tableBytes; at += piece.length) {
      await readPadded(this.#storage, table + at, piece);
      if (await use(piece)) await this.#storage.write(table + at, piece);
    }
  }
}
