/**
 * Host clusters that hold metadata. A file that lies can refer to them as data, or count them as free;
 * writing there would destroy the image, so every host cluster is looked up here before it is written.
 */
export class MetadataClusters {
  readonly #clusters = new Set<number>();
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
    for (let cluster = Math.floor(offset / this.#clusterSize); cluster < end; cluster += 1) this.#clusters.add(cluster);
  }

  delete(offset: number, bytes: number): void {
    if (!this.#enabled) return;
    const end = Math.ceil((offset + bytes) / this.#clusterSize);
    for (let cluster = Math.floor(offset / this.#clusterSize); cluster < end; cluster += 1) {
      this.#clusters.delete(cluster);
    }
  }

  has(offset: number): boolean {
    return this.#clusters.has(Math.floor(offset / this.#clusterSize));
  }
}
