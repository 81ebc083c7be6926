import type { ByteReader, Extent } from '../core/extent.ts';
import type { BitmapReader, Source } from '../sources/source.ts';

/** Compresses one cluster into the target's own form. */
export interface ClusterCompressor {
  /** Guest bytes of one unit; a shorter last unit is padded with zeros by the compressor. */
  readonly unit: number;
  /** Resolves to null where the result would not be smaller: the cluster is then written plain. */
  compress(plain: Buffer): Promise<Buffer | null>;
}

/** What a new bitmap is. */
export interface NewBitmap {
  /** Guest bytes of one bit, a power of two; by default as the format has it. */
  granularity?: number;
  /** Records no writes. */
  disabled?: boolean;
  /** What is marked from the start: ascending guest ranges inside the disk. */
  marks?: AsyncIterable<{ offset: number; length: number }>;
}

/**
 * Persistent dirty bitmaps of an open image. Each method leaves a valid image at any moment, and the bitmap as it was
 * or as it shall be. Errors are `missing`, `exists`, `invalid`, or `corrupt` for a bitmap that is inconsistent.
 */
export interface BitmapEditor extends BitmapReader {
  add(name: string, options?: NewBitmap): Promise<void>;
  remove(name: string): Promise<void>;
  clear(name: string): Promise<void>;
  enable(name: string): Promise<void>;
  disable(name: string): Promise<void>;
  /** Adds the marks of a bitmap of this image, or of another one of the same size. */
  merge(name: string, source: string, from?: BitmapReader): Promise<void>;
}

/** Guest bytes to be written. */
export interface GuestWrite {
  offset: number;
  buffer: Buffer;
}

/**
 * One image that can be written at random: new and existing ones alike. All methods may be called
 * concurrently for ranges that do not overlap. Offsets are guest offsets; ranges must lie inside the disk.
 */
export interface Target {
  readonly format: string;
  readonly name: string;
  /** Guest disk size in bytes. */
  readonly size: number;
  /** Allocation unit in bytes: whole units are cheapest. 1 where there is none. */
  readonly granularity: number;
  /**
   * Zeros in runs of this many bytes, inside allocation units too, take no space where they are left out: the file has holes
   * there. Absent: only whole units can be spared.
   */
  readonly sparseUnit?: number;
  /** What has not been written reads as zeros: a new image without backing file. */
  readonly readsAsZero: boolean;
  /** Accepts writes only in ascending guest order (a pipe). */
  readonly sequential: boolean;
  /** The same image, for reading: sees every write that has resolved. Null for a pipe. */
  readonly source: Source | null;

  write(offset: number, buffer: Buffer): Promise<void>;
  /** `write` for several ranges, ascending and without overlap. Absent: there is nothing to be gained over calls of `write`. */
  writeMany?(writes: readonly GuestWrite[]): Promise<void>;
  /** Makes the range read as zeros, also over a backing file. `unmap`: may give the space back. */
  zero(offset: number, length: number, options?: { unmap?: boolean }): Promise<void>;
  /** The guest no longer needs the range; space is given back where the format can. */
  discard?(offset: number, length: number): Promise<void>;

  /**
   * Copies plain bytes of a file inside the kernel (`-C`) and returns how many, from the range's start, were copied; 0
   * where it can't be done: the caller then reads and writes.
   */
  copyFrom?(offset: number, host: ByteReader, hostOffset: number, length: number): Promise<number>;

  /** Absent: the format has no compression. */
  readonly compressor?: ClusterCompressor;
  /** Writes what `compressor` made of the unit(s) at `offset`; `length` is in guest bytes. */
  writeCompressed?(offset: number, length: number, packed: Buffer): Promise<void>;
  /** Changes the guest size. `preallocation`: of what is added, as `-o preallocation` has it; default off. */
  truncate?(size: number, options?: { preallocation?: string }): Promise<void>;
  /** For when all is written: what is written after an edit is refused. Absent: the format has no persistent bitmaps. */
  readonly bitmaps?: BitmapEditor;
  /** Gives up all that this layer holds: its backing file shows everywhere, or zeros. */
  makeEmpty?(): Promise<void>;
  /** Changes what the header says of a backing file; null: there is none. The contents do not change with it. */
  setBacking?(backing: { filename: string; format: string | null } | null): Promise<void>;

  /**
   * `below`, the backing file, was written to without changing what this disk shows: notes what tells it from what it was.
   * Absent: the format does not look.
   */
  adoptBacking?(below: Source): Promise<void>;

  /** All that was written so far survives a crash when it resolves. */
  flush(): Promise<void>;
  /** Completes the image (only now does a new one become recognisable), flushes, closes its storages. */
  close(): Promise<void>;
  /** Gives up: waits for what is in flight, leaves a new image unrecognisable, removes files it created. */
  abort(): Promise<void>;
}

/** Where a target's extents come from, for writers that must know the map first (a pipe). */
export type ExtentPlan = () => AsyncIterable<readonly Extent[]>;
