import {
  COMPRESSED_HIGH,
  COMPRESSED_SECTOR,
  COPIED_HIGH,
  entryOffset,
  l2Reserved,
  NOT_PLAIN_HIGH,
  OFFSET_HIGH,
  ZERO_LOW,
} from '../../../layouts/qcow2/index.ts';
import { type CheckedImage, hex64 } from './context.ts';
import type { ClusterCounts } from './counts.ts';

export interface L2Table {
  bytes: Buffer;
  /** How many L1 entries refer to it. */
  references: number;
  /** It belongs to the active disk: its clusters count for the statistics. */
  active: boolean;
  /** Entries that are wrong in a way that loses nothing are to be corrected. */
  fix: boolean;
}

/** Counts what the entries of L2 tables refer to, and checks the entries themselves ("L2 table entry"). */
export class L2Walk {
  /** A standard entry without its copied flag was seen. */
  uncopied = false;
  readonly #image: CheckedImage;
  readonly #counts: ClusterCounts;

  constructor(image: CheckedImage, counts: ClusterCounts) {
    this.#image = image;
    this.#counts = counts;
  }

  /** @returns where in the table entries stand that `fix` lets be corrected: they have not been counted */
  walk(table: L2Table): number[] {
    const { geometry, external } = this.#image;
    const { l2Entries, l2EntrySize, extendedL2 } = geometry;
    const view = new DataView(table.bytes.buffer, table.bytes.byteOffset, table.bytes.length);
    const run = { next: 0 };
    const mayBePlain = !extendedL2 && !external;
    const correctable: number[] = [];
    for (let index = 0; index < l2Entries; index += 1) {
      if (mayBePlain) index += this.#plain(view, table, index, run);
      if (index === l2Entries) break;
      const at = index * l2EntrySize;
      const high = view.getUint32(at);
      const low = view.getUint32(at + 4);
      if (high === 0 && low === 0 && !extendedL2) continue;
      if ((high & COMPRESSED_HIGH) !== 0) this.#compressed(table, index, high, low);
      else if (this.#standard(table, at, high, low, run)) correctable.push(at);
    }
    return correctable;
  }

  /**
   * The hot path: entries from `start` on that say nothing but an aligned cluster of the file. Clusters that follow one
   * another are counted together.
   * @returns how many there were
   */
  #plain(view: DataView, table: L2Table, start: number, run: { next: number }): number {
    const { geometry, clusters, fragmentation } = this.#image;
    const { clusterSize, clusterBits, l2Entries } = geometry;
    const perHigh = 0x1_0000_0000 / clusterSize;
    let first = -1;
    let end = -1;
    let next = run.next === 0 ? -1 : run.next / clusterSize;
    let fragments = 0;
    let index = start;
    for (; index < l2Entries; index += 1) {
      const high = view.getUint32(index * 8);
      const low = view.getUint32(index * 8 + 4);
      if ((high & NOT_PLAIN_HIGH) !== 0 || (low & (clusterSize - 1)) !== 0) break;
      const cluster = (high & OFFSET_HIGH) * perHigh + (low >>> clusterBits);
      if (cluster === 0 || cluster >= clusters) break;
      if (high >>> 31 === 0) this.uncopied = true;
      if (cluster !== next && next >= 0) fragments += 1;
      next = cluster + 1;
      if (cluster !== end) {
        if (end > first) this.#image.countRun(this.#counts, first, end - first, table.references);
        first = cluster;
      }
      end = next;
    }
    if (end > first) this.#image.countRun(this.#counts, first, end - first, table.references);
    if (index === start || !table.active) return index - start;
    run.next = next * clusterSize;
    fragmentation.allocatedClusters += index - start;
    fragmentation.fragmentedClusters += fragments;
    return index - start;
  }

  /** @returns whether the entry is to be corrected */
  #standard(table: L2Table, at: number, high: number, low: number, run: { next: number }): boolean {
    const { geometry, external } = this.#image;
    if (l2Reserved(high, low)) {
      this.#image.corrupt(`ERROR found l2 entry with reserved bits set: ${hex64(high, low)}`);
    }
    const offset = entryOffset(high, low);
    const allocated = geometry.extendedL2 ? table.bytes.readUInt32BE(at + 12) : 0;
    if (offset === 0 && !(external && high >>> 31 === 1)) {
      if (allocated !== 0) {
        this.#image.corrupt('ERROR: Unallocated cluster has non-zero subcluster allocation map');
      }
      return false;
    }
    if (geometry.extendedL2 && (allocated & table.bytes.readUInt32BE(at + 8)) !== 0) {
      const where = `offset=${offset.toString(16)}`;
      this.#image.corrupt(`ERROR ${where}: Allocated cluster has corrupted subcluster allocation bitmap`);
    }
    if (offset % geometry.clusterSize !== 0 && this.#unaligned(table, offset, low, allocated)) return true;
    if (high >>> 31 === 0) this.uncopied = true;
    if (table.active) this.#statistics(offset, run);
    if (!external) this.#image.count(this.#counts, offset, geometry.clusterSize, table.references);
    return false;
  }

  /** @returns whether the entry is to be corrected: it holds no data, so it can read as zeros without a cluster */
  #unaligned(table: L2Table, offset: number, low: number, allocated: number): boolean {
    const { extendedL2 } = this.#image.geometry;
    const hasData = extendedL2 ? allocated !== 0 : (low & ZERO_LOW) === 0;
    const what = hasData ? 'Data' : 'Preallocated';
    const line = `offset=${offset.toString(16)}: ${what} cluster is not properly aligned; L2 entry corrupted.`;
    if (hasData || !table.fix) {
      this.#image.corrupt(`ERROR ${line}`);
      return false;
    }
    this.#image.report(`Repairing ${line}`);
    this.#image.findings.corruptionsFixed += 1;
    return true;
  }

  #statistics(offset: number, run: { next: number }): void {
    const { fragmentation, geometry } = this.#image;
    fragmentation.allocatedClusters += 1;
    if (run.next !== 0 && offset !== run.next) fragmentation.fragmentedClusters += 1;
    run.next = offset + geometry.clusterSize;
  }

  #compressed(table: L2Table, index: number, high: number, low: number): void {
    const image = this.#image;
    const { geometry } = image;
    const wrong = this.#wrongCompressed(table, index);
    // The split between offset and sectors follows from the cluster size ("Compressed Clusters Descriptor").
    const shift = 62 - (geometry.clusterBits - 8) - 32;
    const offset = (high & (2 ** shift - 1)) * 0x1_0000_0000 + low;
    const sectors = ((high & ~(COPIED_HIGH | COMPRESSED_HIGH)) >>> shift) + 1;
    if (high >>> 31 === 1) {
      const where = `coffset=0x${offset.toString(16)}`;
      image.corrupt(`ERROR: ${where}: copied flag must never be set for compressed clusters`);
    }
    if (wrong !== null) {
      image.corrupt(`ERROR compressed cluster ${index} ${wrong}, entry=0x${hex64((high & ~COPIED_HIGH) >>> 0, low)}`);
      return;
    }
    if (table.active) this.#compressedStatistics();
    image.count(this.#counts, offset, sectors * COMPRESSED_SECTOR - (offset % COMPRESSED_SECTOR), table.references);
  }

  /** Why there can't be a compressed cluster at all. */
  #wrongCompressed({ bytes }: L2Table, index: number): string | null {
    const { geometry, external } = this.#image;
    if (external) return 'with data file';
    const isWrong = geometry.extendedL2 && !isZeroBitmap(bytes, index * geometry.l2EntrySize);
    return isWrong ? 'with non-zero subcluster allocation bitmap' : null;
  }

  /** A compressed cluster is a fragment by its nature: it begins anywhere. */
  #compressedStatistics(): void {
    const { fragmentation } = this.#image;
    fragmentation.allocatedClusters += 1;
    fragmentation.compressedClusters += 1;
    fragmentation.fragmentedClusters += 1;
  }
}

function isZeroBitmap(table: Buffer, at: number): boolean {
  return table.readUInt32BE(at + 8) === 0 && table.readUInt32BE(at + 12) === 0;
}
