import { LRUCache } from 'lru-cache';
import { ensure } from '../../core/errors.ts';
import { tracePoint } from '../../core/trace.ts';
import { CLOOP_OFFSETS_AT, type CloopHeader, cloopOffset } from '../../layouts/cloop.ts';
import type { Storage } from '../../storage/storage.ts';
import { Block, type BlockTables, type BlockView } from '../block-table.ts';

/** Blocks whose offsets are read and kept together: 64 KiB. */
const PAGE_BLOCKS = 8192;
const CACHED_PAGES = 64;

const traceRead = tracePoint('cloop_read_offsets');

/** The offsets table in pages. Each block ends where the next one begins, so a page has one offset more than blocks. */
export class CloopTables implements BlockTables {
  readonly #storage: Storage;
  readonly #header: CloopHeader;
  readonly #pages = new LRUCache<number, BlockView>({ max: CACHED_PAGES });

  constructor(storage: Storage, header: CloopHeader) {
    this.#storage = storage;
    this.#header = header;
  }

  view(block: number): BlockView | Promise<BlockView> {
    const page = Math.floor(block / PAGE_BLOCKS);
    return this.#pages.get(page) ?? this.#load(page);
  }

  async #load(page: number): Promise<BlockView> {
    const first = page * PAGE_BLOCKS;
    const count = Math.min(PAGE_BLOCKS, this.#header.blocks - first);
    const offsets = Buffer.allocUnsafeSlow((count + 1) * 8);
    await this.#storage.read(CLOOP_OFFSETS_AT + first * 8, offsets);
    if (traceRead.enabled) traceRead.emit({ file: this.#storage.name, first, count });
    const view: BlockView = {
      first,
      count,
      entry: () => Block.packed,
      packed: (block) => this.#place(block, offsets, (block - first) * 8),
    };
    this.#pages.set(page, view);
    return view;
  }

  #place(block: number, offsets: Buffer, at: number): { host: number; packedLength: number } {
    const host = cloopOffset(offsets, at);
    const end = cloopOffset(offsets, at + 8);
    // The table was checked when the image was opened, but somebody may have written to it since.
    ensure(end >= host && end <= this.#storage.size, `Block ${block} lies past the end of the file`, { offset: host });
    return { host, packedLength: end - host };
  }
}
