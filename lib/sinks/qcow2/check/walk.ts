import { entryOffset, l1Reserved, ZERO_LOW } from '../../../layouts/qcow2/index.ts';
import { BATCH_BYTES, ClusterReader, readAhead } from '../cluster-reader.ts';
import { type CheckedImage, type Fix, hex64, METADATA_PAGE_BITS } from './context.ts';
import { ClusterCounts } from './counts.ts';
import { L2Walk } from './l2.ts';

/** Where an L1 table lies. */
export interface L1Place {
  offset: number;
  entries: number;
}

/** An L1 entry that is not zero. */
export interface L1Visit {
  index: number;
  high: number;
  low: number;
  /** Host offset of the L2 table. */
  offset: number;
}

/** What is known of a table that was walked and has further references. */
interface WalkedTable {
  lines: string[];
  allocatedClusters: number;
  fragmentedClusters: number;
  compressedClusters: number;
}

/** Bounds what is remembered of walked tables; only images that are damaged beyond repair have more. */
const MAX_REMEMBERED = 100_000;

/** Entries of an L1 table that refer to an L2 table, in order. */
export function* l1Visits(l1: Buffer): Generator<L1Visit> {
  for (let at = 0; at + 8 <= l1.length; at += 8) {
    const high = l1.readUInt32BE(at);
    const low = l1.readUInt32BE(at + 4);
    if (high !== 0 || low !== 0) yield { index: at / 8, high, low, offset: entryOffset(high, low) };
  }
}

/** What is said of an L1 entry that has flags, but no table. */
export function emptyEntry(index: number, high: number, low: number): string {
  return `L1 entry without a table: l1_index=${index} l1_entry=${hex64(high, low)}`;
}

/** The first half of an L2 entry that reads as zeros; the subclusters of an extended one say the same themselves. */
function zeroEntry(extended: boolean): Buffer {
  const entry = Buffer.alloc(8);
  if (!extended) entry[7] = ZERO_LOW;
  return entry;
}

/** The L1 table as far as the file has it; nothing beyond can refer to anything. */
export async function readL1(image: CheckedImage, { offset, entries }: L1Place): Promise<Buffer> {
  image.spend(Math.max(0, Math.min(entries * 8, image.storage.size - offset)));
  return image.readTable(offset, entries * 8);
}

/**
 * Counts what L1 and L2 tables refer to. Snapshots share most of their L2 tables: each table is read once, and counts
 * for all L1 entries that refer to it. So first `gather` is called for all L1 tables, then `walk`.
 */
export class TableWalk {
  readonly #image: CheckedImage;
  readonly #counts: ClusterCounts;
  readonly #fix: Fix;
  readonly #l2: L2Walk;
  readonly #clusters: ClusterReader;
  /** L1 entries that refer to the table in a cluster. */
  readonly tables = new ClusterCounts(METADATA_PAGE_BITS);
  /** 1 for clusters of tables in which something is wrong: they may well be no tables. */
  readonly doubtful = new ClusterCounts(METADATA_PAGE_BITS);
  /** 1 for tables that have been walked. */
  readonly #done = new ClusterCounts(METADATA_PAGE_BITS);
  /** Entries that can be corrected, by their table's offset. */
  readonly #correctable = new Map<number, number[]>();
  readonly #walked = new Map<number, WalkedTable>();
  #rememberedLines = 0;
  #repeatedLines = 0;
  #uncopied = false;

  constructor(image: CheckedImage, counts: ClusterCounts, fix: Fix) {
    this.#image = image;
    this.#counts = counts;
    this.#fix = fix;
    this.#l2 = new L2Walk(image, counts);
    this.#clusters = new ClusterReader(image.storage, image.geometry.clusterSize);
  }

  /** Some entry has no copied flag. */
  get uncopied(): boolean {
    return this.#uncopied || this.#l2.uncopied;
  }

  /** Notes which tables an L1 table refers to. */
  async gather(place: L1Place): Promise<void> {
    for (const { offset } of l1Visits(await readL1(this.#image, place))) {
      if (this.#isOrdinary(offset)) this.tables.add(offset / this.#image.geometry.clusterSize, 1);
    }
  }

  /** Counts an L1 table and all that is below it. */
  async walk(place: L1Place, active: boolean): Promise<void> {
    const image = this.#image;
    const { clusterSize } = image.geometry;
    image.countFoundation(this.#counts, place.offset, place.entries * 8);
    const l1 = await readL1(image, place);
    const most = Math.max(1, Math.floor(BATCH_BYTES / clusterSize));
    const load = (batch: readonly L1Visit[]) => this.#load(batch);
    for await (const { batch, loaded } of readAhead(l1Visits(l1), { most, load })) {
      for (const visit of batch) {
        if (visit.offset === 0) this.#emptyEntry(visit, active);
        else this.#visit(visit, loaded.get(visit.offset), active);
      }
      this.#clusters.release(loaded);
    }
  }

  /** Flags alone: no reader takes it for a table. Those of the active table are left to the check of flags. */
  #emptyEntry({ index, high, low }: L1Visit, active: boolean): void {
    if (active) this.#uncopied = true;
    else this.#image.corrupt(`ERROR ${emptyEntry(index, high, low)}`);
  }

  /**
   * Corrects the entries that can be corrected without a loss, once all references are counted: in tables alone that
   * are nothing else as well.
   */
  async correctEntries(): Promise<void> {
    const { storage, geometry, findings } = this.#image;
    for (const [offset, places] of this.#correctable) {
      const cluster = offset / geometry.clusterSize;
      if (this.#counts.get(cluster) !== this.tables.get(cluster)) {
        findings.corruptionsFixed -= places.length;
        findings.corruptions += places.length;
        continue;
      }
      for (const at of places) await storage.write(offset + at, zeroEntry(geometry.extendedL2));
    }
  }

  #isOrdinary(offset: number): boolean {
    return offset % this.#image.geometry.clusterSize === 0 && offset < this.#image.storage.size;
  }

  #isDue(offset: number): boolean {
    if (offset === 0 || offset >= this.#image.storage.size) return false;
    const { clusterSize } = this.#image.geometry;
    return !this.#isOrdinary(offset) || this.#done.get(offset / clusterSize) === 0;
  }

  async #load(batch: readonly L1Visit[]): Promise<Map<number, Buffer>> {
    const { geometry } = this.#image;
    const due = new Set<number>();
    for (const { offset } of batch) if (this.#isDue(offset)) due.add(offset);
    this.#image.spend(due.size * geometry.clusterSize);
    return this.#clusters.read(due);
  }

  #visit({ high, low, offset }: L1Visit, bytes: Buffer | undefined, active: boolean): void {
    const image = this.#image;
    const { clusterSize } = image.geometry;
    if (l1Reserved(high, low)) image.corrupt(`ERROR found L1 entry with reserved bits set: ${hex64(high, low)}`);
    if (high >>> 31 === 0) this.#uncopied = true;
    image.count(this.#counts, offset, clusterSize);
    if (offset % clusterSize !== 0) {
      image.corrupt(`ERROR l2_offset=${offset.toString(16)}: Table is not cluster aligned; L1 entry corrupted`);
    }
    if (!this.#isDue(offset)) this.#repeat(offset, active);
    else if (bytes !== undefined) this.#walkTable(offset, bytes, active);
  }

  #walkTable(offset: number, bytes: Buffer, active: boolean): void {
    const image = this.#image;
    const cluster = offset / image.geometry.clusterSize;
    const ordinary = this.#isOrdinary(offset);
    const references = ordinary ? this.tables.get(cluster) : 1;
    const before = { ...image.fragmentation };
    const { corruptions } = image.findings;
    image.noted = references > 1 ? [] : null;
    const fix = this.#fix.errors && ordinary && this.#correctable.size < MAX_REMEMBERED;
    const correctable = this.#l2.walk({ bytes, references, active, fix });
    if (correctable.length > 0) this.#correctable.set(offset, correctable);
    if (ordinary) this.#done.set(cluster, 1);
    if (ordinary && image.findings.corruptions > corruptions) this.doubtful.set(cluster, 1);
    if (image.noted !== null) this.#remember(offset, image.noted, before);
    image.noted = null;
  }

  #remember(offset: number, lines: string[], before: CheckedImage['fragmentation']): void {
    this.#rememberedLines += lines.length;
    if (this.#walked.size >= MAX_REMEMBERED || this.#rememberedLines > MAX_REMEMBERED) return;
    const { fragmentation: now } = this.#image;
    this.#walked.set(offset, {
      lines,
      allocatedClusters: now.allocatedClusters - before.allocatedClusters,
      fragmentedClusters: now.fragmentedClusters - before.fragmentedClusters,
      compressedClusters: now.compressedClusters - before.compressedClusters,
    });
  }

  /** A table seen before is as wrong as it was then. */
  #repeat(offset: number, active: boolean): void {
    const walked = this.#walked.get(offset);
    if (walked === undefined) return;
    this.#repeatedLines += walked.lines.length;
    if (this.#repeatedLines > MAX_REMEMBERED) this.#image.findings.corruptions += walked.lines.length;
    else for (const line of walked.lines) this.#image.corrupt(line);
    if (!active) return;
    const { fragmentation } = this.#image;
    fragmentation.allocatedClusters += walked.allocatedClusters;
    fragmentation.fragmentedClusters += walked.fragmentedClusters;
    fragmentation.compressedClusters += walked.compressedClusters;
  }
}
