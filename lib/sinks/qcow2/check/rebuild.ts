import { alignUp, writeU64BE } from '../../../core/binary.ts';
import { ImageError } from '../../../core/errors.ts';
import { tracePoint } from '../../../core/trace.ts';
import { MAX_REFCOUNT_TABLE_BYTES, writeRefcount } from '../../../layouts/qcow2/index.ts';
import { type PageImage, writePages } from '../../pages.ts';
import { BATCH_BYTES } from '../cluster-reader.ts';
import type { CheckedImage } from './context.ts';
import type { ClusterCounts } from './counts.ts';

const traceRebuild = tracePoint('qcow2_check_rebuild');

/** Where the header names the refcount table: its offset (64 bits) and its clusters (32). */
const TABLE_FIELDS = { offset: 48, bytes: 12 } as const;

/** A refcount structure that is to be. */
interface Plan {
  /** Clusters of the blocks, by index in the table. */
  blocks: Map<number, number>;
  /** First cluster of the table. */
  table: number;
  tableClusters: number;
}

/**
 * Makes a new refcount structure from the references that were counted, in clusters that nothing refers to. The old
 * one stays as it was until the header names the new one, and is leaked then.
 * @param counts are added to: the new structure refers to its own clusters
 * @param reuse free clusters inside the file may be taken; otherwise only what lies behind its end
 */
export async function rebuildRefcounts(image: CheckedImage, counts: ClusterCounts, reuse: boolean): Promise<void> {
  const { storage, header, geometry } = image;
  if (!storage.fixedSize) image.adoptDangling(counts);
  const plan = new Planner(image, counts, reuse || storage.fixedSize).plan();
  if (traceRebuild.enabled) traceRebuild.emit({ file: storage.name, blocks: plan.blocks.size, table: plan.table });
  await writeBlocks(image, counts, plan);
  await storage.flush();
  const table = Buffer.alloc(plan.tableClusters * geometry.clusterSize);
  for (const [index, cluster] of plan.blocks) writeU64BE(table, index * 8, cluster * geometry.clusterSize);
  await storage.write(plan.table * geometry.clusterSize, table);
  await storage.flush();
  header.refcountTableOffset = plan.table * geometry.clusterSize;
  header.refcountTableClusters = plan.tableClusters;
  const fields = Buffer.alloc(TABLE_FIELDS.bytes);
  writeU64BE(fields, 0, header.refcountTableOffset);
  fields.writeUInt32BE(header.refcountTableClusters, 8);
  await storage.write(TABLE_FIELDS.offset, fields);
  await storage.flush();
  image.refcountTable = table;
}

async function writeBlocks(image: CheckedImage, counts: ClusterCounts, { blocks }: Plan): Promise<void> {
  const { storage, geometry, maxRefcount } = image;
  const { clusterSize, refcountsPerBlock, refcountBits } = geometry;
  let pages: PageImage[] = [];
  for (const [index, cluster] of blocks) {
    const bytes = Buffer.alloc(clusterSize);
    const first = index * refcountsPerBlock;
    for (let at = 0; at < refcountsPerBlock; at += 1) {
      const count = counts.get(first + at);
      if (count > 0) writeRefcount(bytes, at, refcountBits, Math.min(count, maxRefcount));
    }
    pages.push({ offset: cluster * clusterSize, bytes });
    if (pages.length * clusterSize < BATCH_BYTES) continue;
    await writePages(storage, pages);
    pages = [];
  }
  await writePages(storage, pages);
}

/** Finds places for blocks and table; both count themselves, so that each place taken may ask for one more block. */
class Planner {
  readonly #image: CheckedImage;
  readonly #counts: ClusterCounts;
  readonly #blocks = new Map<number, number>();
  readonly #perBlock: number;
  /** All clusters before it are in use. */
  #cursor: number;
  /** First cluster that a device does not have. */
  readonly #limit: number;
  /** All clusters that are in use lie before it. */
  #end: number;

  constructor(image: CheckedImage, counts: ClusterCounts, reuse: boolean) {
    const { storage, geometry, countedClusters: clusters } = image;
    this.#image = image;
    this.#counts = counts;
    this.#perBlock = geometry.refcountsPerBlock;
    this.#cursor = reuse ? 0 : clusters;
    this.#end = clusters;
    this.#limit = storage.fixedSize ? Math.floor(storage.size / geometry.clusterSize) : Number.POSITIVE_INFINITY;
  }

  plan(): Plan {
    const { clusterSize } = this.#image.geometry;
    for (;;) {
      this.#makeBlocks();
      const tableClusters = Math.max(1, Math.ceil((this.#highestBlock() * 8) / clusterSize));
      if (tableClusters * clusterSize > alignUp(MAX_REFCOUNT_TABLE_BYTES, clusterSize)) throw this.#full();
      const table = this.#take(tableClusters);
      this.#makeBlocks();
      if (this.#highestBlock() * 8 <= tableClusters * clusterSize)
        return { blocks: this.#blocks, table, tableClusters };
      // The table's own clusters need a block that the table does not reach: another place, for a longer one.
      for (let cluster = table; cluster < table + tableClusters; cluster += 1) this.#counts.set(cluster, 0);
    }
  }

  #highestBlock(): number {
    let highest = 0;
    for (const index of this.#blocks.keys()) highest = Math.max(highest, index + 1);
    return highest;
  }

  /** Blocks for all clusters that are in use, those of the blocks among them. */
  #makeBlocks(): void {
    for (let made = true; made; ) {
      made = false;
      for (let index = 0; index * this.#perBlock < this.#end; index += 1) {
        if (this.#blocks.has(index) || !this.#isNeeded(index)) continue;
        this.#blocks.set(index, this.#take(1));
        made = true;
      }
    }
  }

  #isNeeded(index: number): boolean {
    const first = index * this.#perBlock;
    const end = first + this.#perBlock;
    if (!this.#counts.touches(first, end)) return false;
    for (let cluster = first; cluster < end; cluster += 1) if (this.#counts.get(cluster) > 0) return true;
    return false;
  }

  /** The first of so many free clusters that lie together, now taken. */
  #take(clusters: number): number {
    let first = this.#cursor;
    for (let cluster = first; cluster < first + clusters; cluster += 1) {
      if (this.#counts.get(cluster) > 0) first = cluster + 1;
    }
    if (first + clusters > this.#limit) throw this.#full();
    for (let cluster = first; cluster < first + clusters; cluster += 1) this.#counts.add(cluster, 1);
    if (clusters === 1) this.#cursor = first + 1;
    this.#end = Math.max(this.#end, first + clusters);
    return first;
  }

  #full(): ImageError {
    return new ImageError('no-space', 'There is no place for a new refcount structure', {
      file: this.#image.storage.name,
      format: 'qcow2',
    });
  }
}
