/** Clusters of a page: one look tells that there is nothing in all of them. */
const PAGE = 256;

/**
 * Host clusters that hold metadata. A file that lies can refer to them as data, or count them as free;
 * writing there would destroy the image, so every host cluster is looked up here before it is written.
 */
export class MetadataClusters {
  readonly #clusters = new Set<number>();
  /** How many clusters of each page are in the set. */
  readonly #pages = new Map<number, number>();
  readonly #clusterSize: number;
  readonly #enabled: boolean;

  /** @param enabled false for a new image: all its entries are our own */
  constructor(clusterSize: number, enabled: boolean) {
    this.#clusterSize = clusterSize;
    this.#enabled = enabled;
  }

  add(offset: number, bytes: number): void {
    if (!this.#enabled) return;
    const end = Math.ceil((offset + bytes) / this.#clusterSize);
    for (let cluster = Math.floor(offset / this.#clusterSize); cluster < end; cluster += 1) {
      if (this.#clusters.has(cluster)) continue;
      this.#clusters.add(cluster);
      this.#count(cluster, 1);
    }
  }

  delete(offset: number, bytes: number): void {
    if (!this.#enabled) return;
    const end = Math.ceil((offset + bytes) / this.#clusterSize);
    for (let cluster = Math.floor(offset / this.#clusterSize); cluster < end; ) {
      const pageEnd = Math.min(end, endOfPage(cluster));
      if (this.#pages.has(pageOf(cluster))) this.#deleteAll(cluster, pageEnd);
      cluster = pageEnd;
    }
  }

  #deleteAll(first: number, end: number): void {
    for (let cluster = first; cluster < end; cluster += 1) {
      if (this.#clusters.delete(cluster)) this.#count(cluster, -1);
    }
  }

  #count(cluster: number, change: 1 | -1): void {
    const page = pageOf(cluster);
    const count = (this.#pages.get(page) ?? 0) + change;
    if (count === 0) this.#pages.delete(page);
    else this.#pages.set(page, count);
  }

  has(offset: number): boolean {
    return this.#clusters.has(Math.floor(offset / this.#clusterSize));
  }

  /** Whether any of so many clusters from cluster `first` on holds metadata: a look at pages where none does. */
  touches(first: number, clusters: number): boolean {
    const end = first + clusters;
    for (let cluster = first; cluster < end; ) {
      const pageEnd = Math.min(end, endOfPage(cluster));
      if (this.#pages.has(pageOf(cluster)) && this.#hasAny(cluster, pageEnd)) return true;
      cluster = pageEnd;
    }
    return false;
  }

  #hasAny(first: number, end: number): boolean {
    for (let cluster = first; cluster < end; cluster += 1) if (this.#clusters.has(cluster)) return true;
    return false;
  }
}

function pageOf(cluster: number): number {
  return Math.floor(cluster / PAGE);
}

function endOfPage(cluster: number): number {
  return (pageOf(cluster) + 1) * PAGE;
}
