import type { Qcow2Image } from '../image.ts';
import type { ClusterRun } from '../refcounts.ts';

/** Clusters are written in pieces of about this much. */
const PIECE_BYTES = 1024 * 1024;

/**
 * Host clusters for one change of bitmaps. Until the header refers to them, nothing does: a change that fails gives
 * them back, and one that succeeds gives up those that were used before. Under the metadata lock.
 */
export class BitmapSpace {
  readonly #image: Qcow2Image;
  #taken: ClusterRun[] = [];
  /** What the change no longer needs. */
  readonly #left: ClusterRun[] = [];

  constructor(image: Qcow2Image) {
    this.#image = image;
  }

  /** How many clusters to collect before they are written. */
  get piece(): number {
    return Math.max(1, PIECE_BYTES / this.#image.geometry.clusterSize);
  }

  /** Writes whole clusters wherever there is room; the offset of each. */
  async writeClusters(clusters: readonly Buffer[]): Promise<number[]> {
    const { refcounts, storage, geometry } = this.#image;
    const offsets: number[] = [];
    while (offsets.length < clusters.length) {
      const first = offsets.length;
      const run = await refcounts.allocate(clusters.length - first);
      this.#image.checkAllocated(run);
      this.#taken.push(run);
      await storage.writev(run.offset, clusters.slice(first, first + run.clusters));
      for (let index = 0; index < run.clusters; index += 1) offsets.push(run.offset + index * geometry.clusterSize);
    }
    return offsets;
  }

  /** Writes a table into clusters that lie together, zeros behind it; its offset. */
  async writeTable(bytes: Buffer): Promise<number> {
    const { refcounts, storage, geometry } = this.#image;
    const clusters = Math.ceil(bytes.length / geometry.clusterSize);
    const offset = await refcounts.allocateTogether(clusters);
    const run = { offset, clusters };
    this.#taken.push(run);
    this.#image.checkAllocated(run);
    await storage.write(offset, Buffer.concat([bytes], clusters * geometry.clusterSize));
    return offset;
  }

  /** Notes that these bytes are not needed once the change is made. What is metadata of another kind stays. */
  leave(offset: number, bytes: number): void {
    const { clusterSize } = this.#image.geometry;
    const clusters = Math.ceil(bytes / clusterSize);
    for (let index = 0; index < clusters; index += 1) {
      if (this.#image.isMetadata(offset + index * clusterSize)) return;
    }
    this.#left.push({ offset, clusters });
  }

  /** A part of the change that may fail on its own: then it took nothing, and left nothing. */
  async attempt<T>(part: () => Promise<T>): Promise<T> {
    const [taken, left] = [this.#taken.length, this.#left.length];
    try {
      return await part();
    } catch (error) {
      for (const run of this.#taken.splice(taken)) await this.#image.refcounts.takeBack(run);
      this.#left.length = left;
      throw error;
    }
  }

  /** The header refers to what is new from its next commit on, which then frees the rest. */
  settle(): void {
    for (const { offset, clusters } of this.#left) this.#image.refcounts.release(offset, clusters);
    this.#taken = [];
  }

  /** The change failed: nothing refers to what was taken. */
  async giveBack(): Promise<void> {
    for (const run of this.#taken) await this.#image.refcounts.takeBack(run);
    this.#taken = [];
  }
}
