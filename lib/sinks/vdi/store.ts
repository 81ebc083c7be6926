import { tracePoint } from '../../core/trace.ts';
import {
  ALLOCATED_AT,
  BLOCK_UNALLOCATED,
  encodeVdiHeader,
  MAP_ENTRY,
  VDI_BLOCK,
  type VdiHeader,
} from '../../layouts/vdi.ts';
import type { Source } from '../../sources/source.ts';
import { vdiShape, vdiSource } from '../../sources/vdi/index.ts';
import type { Storage } from '../../storage/storage.ts';
import type { Allocation, BlockStore } from '../blocks/store.ts';
import { WritableTables } from '../blocks/tables.ts';
import { findUsedBlocks, UsedBlocks } from './used-blocks.ts';
import { newUuid } from './uuid.ts';

const traceCommit = tracePoint('vdi_commit');

/** A VDI image open for writing. Blocks are never given up: QEMU puts the next one where the count says. */
export class VdiStore implements BlockStore {
  readonly format = 'vdi';
  readonly name: string;
  readonly storage: Storage;
  readonly data: Storage;
  readonly blockSize = VDI_BLOCK;
  readonly fresh: boolean;
  readonly backing = null;
  readonly hasBacking = false;
  readonly canZero = false;
  readonly source: Source;
  readonly #header: VdiHeader;
  readonly tables: WritableTables;
  /** Null until the first block is allocated in an image that exists. */
  #used: UsedBlocks | null;
  /** What the header in the file says. */
  #writtenCount: number;

  /** @param fresh the header is not in the file yet */
  constructor(storage: Storage, header: VdiHeader, { fresh }: { fresh: boolean }) {
    this.name = storage.name;
    this.storage = storage;
    this.data = storage;
    this.fresh = fresh;
    this.#header = header;
    this.#writtenCount = header.allocated;
    this.#used = fresh && header.allocated === 0 ? new UsedBlocks(header.blocks) : null;
    const { dataOffset } = header;
    this.tables = new WritableTables({
      storage,
      format: this.format,
      what: 'block map',
      commit: () => this.commit(),
      shape: {
        ...vdiShape(header),
        encode: (bytes, index, state) => {
          const entry = state < 0 ? BLOCK_UNALLOCATED : (state - dataOffset) / VDI_BLOCK;
          bytes.writeUInt32LE(entry, index * MAP_ENTRY);
        },
      },
    });
    this.source = vdiSource({ storage, header, tables: this.tables, writable: true });
  }

  get size(): number {
    return this.#header.size;
  }

  async allocate(wanted: number): Promise<Allocation> {
    const { dataOffset } = this.#header;
    this.#used ??= await findUsedBlocks(this.storage, this.#header);
    const { first, blocks } = this.#used.take(wanted);
    const host = dataOffset + first * VDI_BLOCK;
    return { host, blocks, fresh: !this.storage.fixedSize && host >= this.storage.size };
  }

  takeBack({ host, blocks }: Allocation): void {
    this.#used?.giveBack((host - this.#header.dataOffset) / VDI_BLOCK, blocks);
  }

  /**
   * The count goes first: blocks that are counted and not in the map are a loss of space, but QEMU would write over
   * those that are in the map and not counted.
   */
  async commit(): Promise<void> {
    if (!this.tables.dirty) return;
    if (traceCommit.enabled) traceCommit.emit({ file: this.name, allocated: this.#count });
    if (this.fresh) return this.tables.write();
    const count = this.#count;
    await this.tables.write(async () => {
      await this.#writeCount(count);
      await this.storage.flush();
    });
  }

  /** The header's count of allocated blocks, as it should be. */
  get #count(): number {
    return this.#used?.top ?? this.#header.allocated;
  }

  async #writeCount(count: number): Promise<void> {
    if (count === this.#writtenCount) return;
    const field = Buffer.alloc(4);
    field.writeUInt32LE(count);
    await this.storage.write(ALLOCATED_AT, field);
    this.#writtenCount = count;
  }

  async complete(): Promise<void> {
    if (!this.fresh) {
      // Lower than before where writes failed.
      await this.#writeCount(this.#count);
      return this.storage.flush();
    }
    await this.storage.flush();
    const header = { ...this.#header, allocated: this.#count };
    await this.storage.write(0, encodeVdiHeader(header, { image: newUuid(), snapshot: newUuid() }));
    await this.storage.flush();
  }

  close(discard: boolean): Promise<void> {
    return this.storage.close({ discard });
  }
}
