import { ImageError } from '../../../core/errors.ts';
import {
  type HeaderTail,
  Incompatible,
  maxRefcount,
  type Qcow2Geometry,
  type Qcow2Header,
} from '../../../layouts/qcow2/index.ts';
import type { Qcow2Head } from '../../../sources/qcow2/head.ts';
import { readPadded, type Storage } from '../../../storage/storage.ts';
import { ClusterCounts, MAX_CLUSTERS } from './counts.ts';

/** What a check found; the driver's CheckReport is made of it. */
export interface Findings {
  checkErrors: number;
  corruptions: number;
  leaks: number;
  corruptionsFixed: number;
  leaksFixed: number;
}

export function noFindings(): Findings {
  return { checkErrors: 0, corruptions: 0, leaks: 0, corruptionsFixed: 0, leaksFixed: 0 };
}

/** Of the active disk alone. */
export interface Fragmentation {
  allocatedClusters: number;
  fragmentedClusters: number;
  compressedClusters: number;
}

const MAX_LINES = 2_000_000;

/** What may be repaired. */
export interface Fix {
  leaks: boolean;
  errors: boolean;
}

export const NO_FIX: Fix = { leaks: false, errors: false };

/** Metadata lie far apart: small pages do for counting references to them. */
export const METADATA_PAGE_BITS = 8;
/** A valid image's tables lie side by side; what is read beyond the file's size lies in several places at once. */
const SPARE_BUDGET = 4 * 1024 * 1024;
/** Clusters behind the end of the file in which references are remembered: a file that grows may come to have them. */
const DANGLING_WINDOW = 1024 * 1024;

/** An image under check: what all parts of the check share. */
export class CheckedImage {
  readonly storage: Storage;
  readonly header: Qcow2Header;
  readonly tail: HeaderTail;
  readonly geometry: Qcow2Geometry;
  /** Data clusters are in a file of their own. */
  readonly external: boolean;
  /** `named`: qemu-img puts its name before the line. */
  readonly report: (line: string, named?: boolean) => void;
  /** The largest refcount of the image's width. */
  readonly maxRefcount: number;
  /** The refcount table, as long as the header says; what the file does not have is zero. */
  refcountTable: Buffer = Buffer.alloc(0);
  findings: Findings = noFindings();
  fragmentation: Fragmentation = { allocatedClusters: 0, fragmentedClusters: 0, compressedClusters: 0 };
  /** References to clusters from anything but L1 and L2 entries: what is there is no L2 table, and no data. */
  foundations = new ClusterCounts(METADATA_PAGE_BITS);
  /** References in regions that end behind the end of the file, as far as that is not far. */
  dangling = new ClusterCounts();
  /** Where corruptions are noted as well, while somebody collects them. */
  noted: string[] | null = null;
  /** Behind the last cluster that was counted: by less than a cluster, that may lie past the end of the file. */
  #counted = 0;
  #budget = 0;

  constructor(storage: Storage, { header, tail, geometry }: Qcow2Head, report: CheckedImage['report']) {
    this.storage = storage;
    this.header = header;
    this.tail = tail;
    this.geometry = geometry;
    this.external = (header.incompatible & Incompatible.dataFile) !== 0n;
    this.report = limited(report);
    this.maxRefcount = maxRefcount(geometry.refcountBits);
    this.renewBudget();
    if (this.clusters > MAX_CLUSTERS) throw new ImageError('corrupt', 'File too large', { file: storage.name });
  }

  /** Host clusters that the file has, the last one perhaps in part. */
  get clusters(): number {
    return Math.ceil(this.storage.size / this.geometry.clusterSize);
  }

  /** Says what is corrupt. */
  corrupt(line: string): void {
    this.report(line);
    this.findings.corruptions += 1;
    this.noted?.push(line);
  }

  /** Clusters whose refcounts matter: those of the file, and what was counted. */
  get countedClusters(): number {
    return Math.max(this.clusters, this.#counted);
  }

  /** Begins a new walk over all tables. */
  renewBudget(): void {
    this.#budget = 4 * this.storage.size + SPARE_BUDGET;
  }

  /** Whether so many bytes of tables may be read without proving that tables overlap. */
  affords(bytes: number): boolean {
    return this.#budget >= bytes;
  }

  /** Takes tables into account; `corrupt` where they can't all lie in this file. */
  spend(bytes: number): void {
    this.#budget -= bytes;
    if (this.#budget >= 0) return;
    throw new ImageError('corrupt', 'The tables of the image overlap in too many places', { file: this.storage.name });
  }

  /** Whether a region lies in the file, at least all but a part of its last cluster: others are not counted. */
  isInFile(offset: number, bytes: number): boolean {
    return offset + bytes - this.storage.size < this.geometry.clusterSize;
  }

  /** Counts references to the clusters that [offset, offset + bytes) touches. */
  count(counts: ClusterCounts, offset: number, bytes: number, references = 1): void {
    const { clusterSize } = this.geometry;
    if (bytes <= 0) return;
    if (!this.isInFile(offset, bytes)) {
      const where = `offset 0x${offset.toString(16)} size 0x${bytes.toString(16)}`;
      this.corrupt(
        `ERROR: counting reference for region exceeding the end of the file by one cluster or more: ${where}`,
      );
      this.#noteDangling(offset, bytes, references);
      return;
    }
    const end = Math.floor((offset + bytes - 1) / clusterSize);
    if (end >= this.#counted) this.#counted = end + 1;
    for (let cluster = Math.floor(offset / clusterSize); cluster <= end; cluster += 1) {
      const sum = counts.add(cluster, references);
      if (sum > this.maxRefcount) this.#overflow(cluster);
    }
  }

  #noteDangling(offset: number, bytes: number, references: number): void {
    const { clusterSize } = this.geometry;
    const end = Math.min(this.clusters + DANGLING_WINDOW, Math.ceil((offset + bytes) / clusterSize), MAX_CLUSTERS);
    for (let cluster = Math.floor(offset / clusterSize); cluster < end; cluster += 1) {
      this.dangling.add(cluster, references);
    }
  }

  /**
   * Makes references to clusters behind the end of the file count, before something is put there: they read as zeros
   * now, and must not come to read as metadata.
   */
  adoptDangling(counts: ClusterCounts): void {
    const { pageClusters } = this.dangling;
    const end = this.clusters + DANGLING_WINDOW;
    for (let first = 0; first < end; first += pageClusters) {
      if (!this.dangling.touches(first, first + pageClusters)) continue;
      for (let cluster = first; cluster < first + pageClusters; cluster += 1) {
        const references = this.dangling.get(cluster);
        if (references === 0) continue;
        counts.add(cluster, references);
        this.#counted = Math.max(this.#counted, cluster + 1);
      }
    }
  }

  /** `count` for what is neither an L2 table nor data. */
  countFoundation(counts: ClusterCounts, offset: number, bytes: number): void {
    const { clusterSize } = this.geometry;
    this.count(counts, offset, bytes);
    if (bytes <= 0 || !this.isInFile(offset, bytes)) return;
    const end = Math.floor((offset + bytes - 1) / clusterSize);
    for (let cluster = Math.floor(offset / clusterSize); cluster <= end; cluster += 1) this.foundations.add(cluster, 1);
  }

  /** `count` for whole clusters, all of which the file has. */
  countRun(counts: ClusterCounts, first: number, clusters: number, references: number): void {
    if (first + clusters > this.#counted) this.#counted = first + clusters;
    if (counts.addRun(first, clusters, references) <= this.maxRefcount) return;
    for (let cluster = first; cluster < first + clusters; cluster += 1) {
      if (counts.get(cluster) > this.maxRefcount) this.#overflow(cluster);
    }
  }

  #overflow(cluster: number): void {
    this.corrupt(
      `ERROR: overflow cluster offset=0x${(cluster * this.geometry.clusterSize).toString(16)}\n` +
        'Use qemu-img amend to increase the refcount entry width or qemu-img convert to create a clean copy if the ' +
        'image cannot be opened for writing',
    );
  }

  /** Bytes of a table as far as the file has them: empty past its end. */
  async readTable(offset: number, bytes: number): Promise<Buffer> {
    const table = Buffer.alloc(Math.max(0, Math.min(bytes, this.storage.size - offset)));
    if (table.length > 0) await this.storage.read(offset, table);
    return table;
  }

  async readRefcountTable(): Promise<void> {
    const bytes = this.header.refcountTableClusters * this.geometry.clusterSize;
    const table = Buffer.alloc(bytes);
    await readPadded(this.storage, this.header.refcountTableOffset, table);
    this.refcountTable = table;
  }
}

/** No more lines than anyone could use: a sparse file of a few MiB can ask for billions. */
function limited(report: CheckedImage['report']): CheckedImage['report'] {
  let lines = 0;
  return (line, named) => {
    lines += 1;
    if (lines <= MAX_LINES) report(line, named);
    else if (lines === MAX_LINES + 1) report('Further findings are counted, but not shown');
  };
}

/** A 64-bit entry as qemu-img prints it. */
export function hex64(high: number, low: number): string {
  return high === 0 ? low.toString(16) : high.toString(16) + low.toString(16).padStart(8, '0');
}
