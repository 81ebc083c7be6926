import type { RunSink } from './runs.ts';

/**
 * What a table says of a block (cluster, grain) of guest bytes, as one number, so that a walk over millions of them
 * makes no objects: the host offset of its bytes, or one of these.
 */
export const Block = {
  /** The layer does not hold it: a backing file may. */
  unallocated: -1,
  /** Reads as zeros. */
  zero: -2,
  /** Compressed: `BlockView.packed` tells where. */
  packed: -3,
  /** Not all of one kind: `BlockView.mixed` tells the parts. */
  mixed: -4,
} as const;

/**
 * The entries of some consecutive blocks. It holds on to the bytes that it reads them from, so it stays good when
 * its owner's cache gives them up.
 */
export interface BlockView {
  /** Blocks [first, first + count) are known; `count` is at least 1. */
  readonly first: number;
  readonly count: number;
  /**
   * Spares a walk: all of these blocks are the same (`Block.unallocated` where there is no table, say), or, where it is
   * 0 or above, block `first` lies there and the others follow it.
   */
  readonly uniform?: number;
  /**
   * Host offset of the block's first byte (0 or above), or one of `Block`. A `corrupt` ImageError for an entry that can't be:
   * unaligned, in the image's own metadata, past any file's end.
   */
  entry(block: number): number;
  /** Where the compressed bytes of a `packed` block begin, and how many may belong to them. */
  packed?(block: number): { host: number; packedLength: number };
  /**
   * Reports the runs of guest bytes [start, end), which lie in a `mixed` block. What it needs must be in memory
   * when the view is.
   */
  mixed?(block: number, start: number, end: number, sink: RunSink): void;
}

/** Where a reader gets a format's block tables from. */
export interface BlockTables {
  /**
   * The entries of `block` and of those that follow it in the same table, `count` at the most. Without a promise where
   * they are in memory.
   */
  view(block: number, count: number): BlockView | Promise<BlockView>;
}
