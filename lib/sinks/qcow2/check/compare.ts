import { writeRefcount } from '../../../layouts/qcow2/index.ts';
import type { PageImage } from '../../pages.ts';
import { writePages } from '../../pages.ts';
import { BATCH_BYTES, ClusterReader, readAhead } from '../cluster-reader.ts';
import type { CheckedImage, Fix } from './context.ts';
import type { ClusterCounts } from './counts.ts';
import { refcountBlockOffset } from './refcount-table.ts';

export interface CompareOptions {
  fix: Fix;
  /** What was freed may be given back to the file system: nothing is known that could refer to it after all. */
  discard: boolean;
  /** Replaces the counted references by the refcounts that the file has now. */
  adopt: boolean;
}

export interface Comparison {
  /** Something in use counts as free: whoever allocates would destroy it, so the refcounts can't be trusted at all. */
  rebuild: boolean;
  /** Refcounts and references differ somewhere. */
  differs: boolean;
  /** The last cluster that is in use, or counts as it. */
  highest: number;
  /** Indexes of refcount blocks that can't be read. */
  unreadable: Set<number>;
}

/** A refcount block that has to be looked at. */
interface Block {
  index: number;
  /** Host offset; 0: there is none, all its refcounts are 0. */
  offset: number;
}

/** Clusters that were freed. */
interface FreedRun {
  first: number;
  end: number;
}

/** Compares the refcounts of all clusters of the file with the references that were counted, and corrects them. */
export class RefcountComparison {
  readonly #image: CheckedImage;
  readonly #counts: ClusterCounts;
  readonly #options: CompareOptions;
  readonly #clusters: number;
  readonly #result: Comparison = { rebuild: false, differs: false, highest: 0, unreadable: new Set() };
  #freed: FreedRun[] = [];

  constructor(image: CheckedImage, counts: ClusterCounts, options: CompareOptions) {
    this.#image = image;
    this.#counts = counts;
    this.#options = options;
    this.#clusters = image.countedClusters;
  }

  async run(): Promise<Comparison> {
    const { storage, geometry } = this.#image;
    const { clusterSize } = geometry;
    const most = Math.max(1, Math.floor(BATCH_BYTES / clusterSize));
    const clusters = new ClusterReader(storage, clusterSize);
    const load = (batch: readonly Block[]) =>
      clusters.read(batch.filter((block) => this.#isReadable(block)).map(({ offset }) => offset));
    for await (const { batch, loaded } of readAhead(this.#blocks(), { most, load })) {
      const changed: PageImage[] = [];
      for (const block of batch) {
        const bytes = loaded.get(block.offset) ?? null;
        if (block.offset !== 0 && bytes === null) this.#unreadable(block);
        else if (this.#compare(block, bytes)) changed.push({ offset: block.offset, bytes: bytes as Buffer });
      }
      if (changed.length > 0) await this.#write(changed);
      clusters.release(loaded);
    }
    return this.#result;
  }

  /** Blocks without which, or with which, a refcount could differ from 0. */
  *#blocks(): Generator<Block> {
    const { refcountTable, geometry, storage } = this.#image;
    const { refcountsPerBlock, clusterSize } = geometry;
    for (let index = 0; index * refcountsPerBlock < this.#clusters; index += 1) {
      const named = index * 8 < refcountTable.length ? refcountBlockOffset(refcountTable, index) : 0;
      // Past the end of the file everything is 0.
      const offset = named % clusterSize === 0 && named >= storage.size ? 0 : named;
      const first = index * refcountsPerBlock;
      if (offset !== 0 || this.#counts.touches(first, first + refcountsPerBlock)) yield { index, offset };
    }
  }

  #isReadable({ offset }: Block): boolean {
    return offset !== 0 && offset % this.#image.geometry.clusterSize === 0;
  }

  #clustersOf({ index }: Block): { first: number; end: number } {
    const { refcountsPerBlock } = this.#image.geometry;
    const first = index * refcountsPerBlock;
    return { first, end: Math.min(first + refcountsPerBlock, this.#clusters) };
  }

  #unreadable(block: Block): void {
    const { first, end } = this.#clustersOf(block);
    const { report, findings } = this.#image;
    this.#result.unreadable.add(block.index);
    findings.checkErrors += end - first;
    for (let cluster = first; cluster < end; cluster += 1) {
      report(`Can't get refcount for cluster ${cluster}: Input/output error`);
    }
  }

  /** @returns whether the block was changed */
  #compare(block: Block, bytes: Buffer | null): boolean {
    const { first, end } = this.#clustersOf(block);
    const refcountOf = refcountReader(bytes, this.#image.geometry.refcountBits);
    const counts = this.#counts;
    const { maxRefcount } = this.#image;
    let changed = false;
    for (let cluster = first + this.#equal(block, bytes); cluster < end; cluster += 1) {
      const refcount = refcountOf(cluster - first);
      const references = Math.min(counts.get(cluster), maxRefcount);
      if (refcount === references) {
        if (refcount > 0) this.#result.highest = cluster;
        continue;
      }
      this.#result.highest = cluster;
      if (this.#mismatch(cluster, refcount, references)) {
        writeRefcount(bytes as Buffer, cluster - first, this.#image.geometry.refcountBits, references);
        changed = true;
        if (references === 0) this.#noteFreed(cluster);
      } else if (this.#options.adopt) counts.set(cluster, refcount);
    }
    return changed;
  }

  /**
   * The hot path: refcounts of the usual width, looked at until one differs from what was counted.
   * @returns how many clusters of the block need no further look
   */
  #equal(block: Block, bytes: Buffer | null): number {
    const { first, end } = this.#clustersOf(block);
    if (bytes === null || this.#image.geometry.refcountBits !== 16) return 0;
    const { pageClusters } = this.#counts;
    let cluster = first;
    while (cluster < end) {
      const page = this.#counts.bytesOf(cluster);
      if (page === null) break;
      const stop = Math.min(end, cluster - (cluster % pageClusters) + pageClusters);
      const equal = equalRefcounts(bytes, cluster - first, page.subarray(cluster % pageClusters), stop - cluster);
      cluster += equal;
      if (cluster < stop) break;
    }
    for (let last = cluster - 1; last >= first; last -= 1) {
      if (this.#counts.get(last) === 0) continue;
      this.#result.highest = last;
      break;
    }
    return cluster - first;
  }

  /** @returns whether the refcount is to be corrected */
  #mismatch(cluster: number, refcount: number, references: number): boolean {
    const { findings, report } = this.#image;
    const { leaks, errors } = this.#options.fix;
    const isLeak = refcount > references;
    this.#result.differs = true;
    // Without a right block there is no place to correct it in.
    if (refcount === 0) this.#result.rebuild = true;
    const fixed = refcount !== 0 && (isLeak ? leaks : errors);
    const what = fixed ? 'Repairing' : isLeak ? 'Leaked' : 'ERROR';
    report(`${what} cluster ${cluster} refcount=${refcount} reference=${references}`);
    if (isLeak) findings[fixed ? 'leaksFixed' : 'leaks'] += 1;
    else findings[fixed ? 'corruptionsFixed' : 'corruptions'] += 1;
    return fixed;
  }

  #noteFreed(cluster: number): void {
    const last = this.#freed.at(-1);
    if (last?.end === cluster) last.end += 1;
    else this.#freed.push({ first: cluster, end: cluster + 1 });
  }

  /** Space is given back when the file says for certain that it is free. */
  async #write(changed: PageImage[]): Promise<void> {
    const { storage, geometry } = this.#image;
    const freed = this.#freed;
    this.#freed = [];
    await writePages(storage, changed);
    if (!this.#options.discard || freed.length === 0) return;
    await storage.flush();
    for (const { first, end } of freed) {
      await storage.discard(first * geometry.clusterSize, (end - first) * geometry.clusterSize);
    }
  }
}

/** How many 16-bit refcounts of a block, from `index` on, equal the counts. */
function equalRefcounts(block: Buffer, index: number, counts: Uint8Array, most: number): number {
  let at = index * 2;
  let equal = 0;
  while (equal < most && block[at] === 0 && block[at + 1] === counts[equal]) {
    equal += 1;
    at += 2;
  }
  return equal;
}

/** The refcount at an index of a block, of any width; 64-bit ones beyond 2^53 come out close by. */
function refcountReader(block: Buffer | null, bits: number): (index: number) => number {
  if (block === null) return () => 0;
  const view = new DataView(block.buffer, block.byteOffset, block.length);
  switch (bits) {
    case 16:
      return (index) => view.getUint16(index * 2);
    case 32:
      return (index) => view.getUint32(index * 4);
    case 64:
      return (index) => view.getUint32(index * 8) * 0x1_0000_0000 + view.getUint32(index * 8 + 4);
    default: {
      const mask = 2 ** bits - 1;
      return (index) => (block[(index * bits) >> 3] >> ((index * bits) & 7)) & mask;
    }
  }
}
