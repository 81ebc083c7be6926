import type { ClusterCipher } from '../../sources/encryption/cluster-cipher.ts';
import type { BackingReference, Source } from '../../sources/source.ts';
import type { Storage } from '../../storage/storage.ts';
import type { Mutex } from '../locks.ts';

/** A block table, or a part of one, in memory and pinned: entries as `Block` of sources/block-table.ts has them. */
export interface TablePage {
  /** Host offset of the block (0 or above), or one of `Block`. Throws a `corrupt` ImageError for what can't be. */
  entry(block: number): number;
  /** Sets the entry: a host offset, `Block.zero` or `Block.unallocated`. Reaches the file with the next commit. */
  set(block: number, state: number): void;
  /** Lets the page go; once. */
  release(): void;
}

/** The block table, page by page. All but `pageEnd` is called with `lock` held. */
export interface TablePages {
  /** Held by whoever works on tables and space. */
  readonly lock: Mutex;
  /** The first block that `block`'s page does not hold any more. */
  pageEnd(block: number): number;
  /** The page that holds `block`, for looking; null where there is none: all its blocks are unallocated. */
  page(block: number): Promise<TablePage | null>;
  /** The page that holds `block`, for changing; made where there is none. */
  pageForWrite(block: number): Promise<TablePage>;
}

/** Host space for new blocks. */
export interface Allocation {
  /** Host offset of the first block's bytes. */
  host: number;
  /** How many blocks lie there one behind the other: at least 1, at most what was asked for. */
  blocks: number;
  /** The space reads as zeros already (it lies behind the file's end). */
  fresh: boolean;
}

/**
 * What a format with block tables must be able to do so that BlockTarget can write it. The methods that concern
 * tables and space are called with `tables.lock` held; `page.entry` and `page.set` without an await
 * between what they decide.
 */
export interface BlockStore {
  /** Driver name. */
  readonly format: string;
  readonly name: string;
  /** The file that makes the image an image: emptied when a new one is given up. */
  readonly storage: Storage;
  /** Where the blocks lie; usually `storage`. */
  readonly data: Storage;
  /** Guest size in bytes. */
  readonly size: number;
  /** Guest bytes of a block. */
  readonly blockSize: number;
  /** A new image: nothing recognisable is in the file before `complete`, and no order has to be kept until then. */
  readonly fresh: boolean;
  /** The chain below, opened; null where there is none, or it was not opened. */
  readonly backing: Pick<Source, 'size' | 'read'> | null;
  /** What is unallocated comes from a backing file. */
  readonly hasBacking: boolean;
  /** Entries can say `Block.zero`. */
  readonly canZero: boolean;
  /** Blocks are encrypted with it, and none is packed; the reading half must have it too, and closes it. */
  readonly cipher?: ClusterCipher | null;
  /** The reading half: it must see every entry that was set, and reads bytes from `data`. */
  readonly source: Source;

  /** The pages of its table. */
  readonly tables: TablePages;
  /** Space for `blocks` blocks next to each other, or for fewer. `first`: the guest block that will lie there. */
  allocate(blocks: number, first: number): Promise<Allocation>;
  /** Takes back what was allocated for a write that failed: nothing refers to it. */
  takeBack?(allocation: Allocation): void;
  /**
   * Once, before the first change of an image that exists: sets the flag "in use", clears what a writer invalidates.
   */
  begin?(): Promise<void>;
  /** Before bytes of allocated blocks [first, first + blocks) at `host` are overwritten: sector bitmaps and the like. */
  touch?(first: number, blocks: number, host: number): Promise<void>;
  /**
   * Writes changed pages back. Where the image exists, in the order that a crash demands: what they refer to
   * is flushed first.
   */
  commit(): Promise<void>;
  /** All is committed: clears "in use"; gives a new image its header, last of all. Flushes. */
  complete(): Promise<void>;
  /** Refuses a guest size that can't be, before anything is changed for it. */
  checkResize?(size: number): void;
  /** Changes the guest size; absent where the format can't. What lies behind the new end has been cleared. */
  resize?(size: number): Promise<void>;
  /** Gives up all blocks; absent where the format's tables can't let go of any. All is committed before. Flushes. */
  makeEmpty?(): Promise<void>;
  /** Changes what the header says of a backing file. All is committed and flushed before. Flushes. */
  setBacking?(backing: BackingReference | null): Promise<void>;
  /** Closes the storages, `storage` last; `discard` removes what was created here. */
  close(discard: boolean): Promise<void>;

  /** Compressed blocks, where the format has them. */
  readonly packing?: {
    /** A packed block; null where it would not be smaller. `plain` is one whole block. */
    compress(plain: Buffer): Promise<Buffer | null>;
    /** Host space for so many bytes. */
    reserve(length: number): Promise<number>;
    /** Sets the entry to the compressed bytes. */
    link(page: TablePage, block: number, host: number, length: number): void;
    /** The plain bytes of a packed block. */
    unpack(page: TablePage, block: number): Promise<Buffer>;
  };
}
