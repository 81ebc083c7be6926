import { alignUp, writeU64BE } from '../../core/binary.ts';
import { tracePoint } from '../../core/trace.ts';
import { encodeQcowHead, QCOW_HEADER, TABLE_ENTRY } from '../../layouts/qcow.ts';
import type { ClusterCipher } from '../../sources/encryption/cluster-cipher.ts';
import { type FirstTable, type QcowHead, qcowShape, qcowSource } from '../../sources/qcow/index.ts';
import type { Source } from '../../sources/source.ts';
import type { Storage } from '../../storage/storage.ts';
import type { Allocation, BlockStore } from '../blocks/store.ts';
import { WritableTables } from '../blocks/tables.ts';
import { QcowPacking } from './packing.ts';

const traceCommit = tracePoint('qcow_commit');

export interface QcowStoreOptions {
  storage: Storage;
  head: QcowHead;
  l1: FirstTable;
  /** The header is not in the file yet. */
  fresh: boolean;
  /** First byte behind all that is in the file. */
  end: number;
  /** The opened backing chain, for copy-on-write. */
  backing: Source | null;
  /** Clusters are encrypted with it. */
  cipher: ClusterCipher | null;
}

/**
 * A qcow image open for writing. New clusters and tables go to the end of the file: there is no account of free space.
 */
export class QcowStore implements BlockStore {
  readonly format = 'qcow';
  readonly name: string;
  readonly storage: Storage;
  readonly data: Storage;
  readonly size: number;
  readonly blockSize: number;
  readonly fresh: boolean;
  readonly backing: Source | null;
  readonly hasBacking: boolean;
  readonly canZero = false;
  readonly cipher: ClusterCipher | null;
  readonly source: Source;
  readonly packing: QcowPacking;
  readonly #head: QcowHead;
  readonly #l1: FirstTable;
  readonly tables: WritableTables;
  #end: number;

  constructor({ storage, head, l1, fresh, end, backing, cipher }: QcowStoreOptions) {
    this.name = storage.name;
    this.storage = storage;
    this.data = storage;
    this.size = head.geometry.size;
    this.blockSize = head.geometry.clusterSize;
    this.fresh = fresh;
    this.backing = backing;
    this.hasBacking = head.backingFile !== null;
    this.cipher = cipher;
    this.#head = head;
    this.#l1 = l1;
    this.#end = end;
    this.tables = this.#makeTables();
    this.source = qcowSource({ storage, head, tables: this.tables, writable: true, cipher });
    const { clusterBits } = head.geometry;
    this.packing = new QcowPacking({ storage, clusterBits, take: (length) => this.#take(length, 1) });
  }

  #makeTables(): WritableTables {
    const shape = qcowShape({ ...this.#head, l1: this.#l1, end: () => this.#end });
    return new WritableTables({
      storage: this.storage,
      format: this.format,
      what: 'L2 table',
      commit: () => this.commit(),
      shape: {
        ...shape,
        encode: (bytes, index, state) => writeU64BE(bytes, index * TABLE_ENTRY, Math.max(0, state)),
        makePage: async (page) => {
          const host = this.#take(shape.pageEntries * TABLE_ENTRY, this.blockSize);
          this.#l1.set(page, (chunk, at) => writeU64BE(chunk, at, host));
          return host;
        },
      },
    });
  }

  async allocate(blocks: number): Promise<Allocation> {
    const host = this.#take(blocks * this.blockSize, this.blockSize);
    return { host, blocks, fresh: !this.storage.fixedSize && host >= this.storage.size };
  }

  takeBack({ host, blocks }: Allocation): void {
    // Space in the middle of the file is lost, as it is when QEMU's writes fail.
    if (host + blocks * this.blockSize === this.#end) this.#end = host;
  }

  /** Takes `length` bytes at the end of the file. */
  #take(length: number, unit: number): number {
    const host = alignUp(this.#end, unit);
    this.#end = host + length;
    return host;
  }

  /**
   * Clusters, then the L2 tables that name them, then the L1 table that names these. A new image's L1 table comes last.
   */
  async commit(): Promise<void> {
    if (traceCommit.enabled) traceCommit.emit({ file: this.name, l1: this.#l1.changed });
    if (this.fresh) return this.tables.write();
    await this.tables.write(() => this.storage.flush());
    if (!this.#l1.changed) return;
    await this.storage.flush();
    await this.#writeL1();
  }

  #writeL1(): Promise<void> {
    return this.#l1.write(this.storage, this.#head.header.l1Offset);
  }

  async complete(): Promise<void> {
    if (this.fresh) {
      await this.#writeL1();
      await this.storage.flush();
      await this.storage.write(0, encodeQcowHead(this.#head.header, this.#head.backingFile));
    }
    await this.storage.flush();
  }

  /** The L1 table forgets all, and only then the file loses what lies behind it. */
  async makeEmpty(): Promise<void> {
    const { header, geometry } = this.#head;
    this.#l1.clear();
    await this.commit();
    await this.storage.flush();
    const head = Math.max(QCOW_HEADER, header.backingOffset + header.backingLength);
    const end = Math.max(head, header.l1Offset + geometry.l1Entries * TABLE_ENTRY);
    if (!this.storage.fixedSize && end < this.storage.size) await this.storage.truncate(end);
    this.#end = end;
    await this.storage.flush();
  }

  close(discard: boolean): Promise<void> {
    return this.storage.close({ discard });
  }
}
