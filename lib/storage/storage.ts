import type { ByteReader } from '../core/extent.ts';

/** A run of a storage's own bytes: `hole` reads as zeros and takes no space. */
export interface HostRange {
  offset: number;
  length: number;
  hole: boolean;
}

export interface ZeroOptions {
  /** May give the space back (punch a hole); otherwise the range stays allocated where possible. */
  unmap?: boolean;
}

export interface CloseOptions {
  /** Remove the file, if this storage created it: an unfinished output. */
  discard?: boolean;
}

/** What a user of an image file does with it, in the terms of QEMU's block permissions. */
export type Permission = 'consistent read' | 'write' | 'resize';

/** What is locked in a file that several processes may open. */
export interface LockRequest {
  /** What is done with the file: refused where another process denies it. */
  uses: readonly Permission[];
  /** What no other process may do meanwhile: refused where one does it already. */
  denies: readonly Permission[];
  /** Storages of one file that name the same object share their locks, and do not stand against each other. */
  image?: object;
}

/**
 * A place that holds bytes. Offsets and lengths are bytes, below 2^53. Every failure is an
 * ImageError with the errno name as `code`, `name` as `file` and the offset.
 * All methods may be called concurrently unless `seekable` is false.
 */
export interface Storage extends ByteReader {
  /** As the user wrote it. */
  readonly name: string;
  /** The protocol driver's name in QEMU's terms: `file`, `host_device`, or our own: `pipe`, `memory`. */
  readonly protocol: string;
  /** Absolute path on this machine, if it has one. */
  readonly path: string | null;
  /** False for pipes: reads and writes must go forward, one at a time, without gaps. */
  readonly seekable: boolean;
  readonly writable: boolean;
  /** Fixed in length (a block device): truncate() to more than `size` fails. */
  readonly fixedSize: boolean;
  /** Current length in bytes; for a pipe, what has passed so far. */
  readonly size: number;

  /**
   * Fills `buffer` from `offset`. Never short: where the bytes end earlier, an ImageError of kind
   * `corrupt` (`readPadded` fills up with zeros instead).
   */
  read(offset: number, buffer: Buffer): Promise<void>;
  /** Writes all of `buffer`; grows the storage where it must. Never short. */
  write(offset: number, buffer: Buffer): Promise<void>;
  /** Writes the buffers one after the other, as one operation where the platform can. */
  writev(offset: number, buffers: Buffer[]): Promise<void>;
  /** Makes the range read as zeros, by the cheapest way there is; grows the storage where it must. */
  zero(offset: number, length: number, options?: ZeroOptions): Promise<void>;
  /** Gives the space of the range back if that is possible; what it reads as afterwards is undefined. */
  discard(offset: number, length: number): Promise<void>;
  /** Reserves space: the range is allocated and reads as zeros where it was a hole. Grows. */
  allocate(offset: number, length: number): Promise<void>;
  /**
   * Data and holes from `offset`, ascending, covering the range or a prefix of it (at least one entry).
   * Where holes can't be told, one data range. At or beyond `size` all is hole.
   */
  holes(offset: number, length: number): Promise<HostRange[]>;
  /**
   * Copies inside the kernel (copy_file_range, reflinks) and returns how many bytes were copied;
   * 0 where it can't be done: the caller then reads and writes.
   */
  copyFrom(source: ByteReader, sourceOffset: number, offset: number, length: number): Promise<number>;
  truncate(size: number): Promise<void>;
  /** Data and metadata are on the disk when it resolves (unless the cache mode is `unsafe`). */
  flush(): Promise<void>;
  /** Bytes of disk space in use (st_blocks × 512), or null where unknown. */
  allocatedBytes(): Promise<number | null>;
  /**
   * Takes locks, beside those taken before, and keeps them until the storage is closed. A `locked` ImageError in
   * qemu-img's words where another process stands against them. Where locks are not to be had nothing happens. Absent:
   * the place is nobody else's.
   */
  lock?(request: LockRequest): Promise<void>;
  /** A filename found inside this one (backing file, data file), relative to its directory. */
  resolve(reference: string): string;
  /** Waits for what is in flight, then closes. Errors of close are errors. Idempotent. */
  close(options?: CloseOptions): Promise<void>;
}

/**
 * QEMU's cache modes, the values of `-t` and `-T`; `unsafe-direct` is what a node has with both `cache.direct=on` and
 * `cache.no-flush=on`.
 */
export type CacheMode = 'none' | 'writeback' | 'writethrough' | 'directsync' | 'unsafe' | 'unsafe-direct';

export interface StorageOpenOptions {
  writable?: boolean;
  /** Make the file; `truncate` empties one that exists. Block devices are opened as they are. */
  create?: boolean;
  truncate?: boolean;
  cache?: CacheMode;
}

/** Like `storage.read`, but bytes beyond the storage's end read as zeros. */
export async function readPadded(storage: Storage, offset: number, buffer: Buffer): Promise<void> {
  const there = Math.max(0, Math.min(buffer.length, storage.size - offset));
  if (there > 0) await storage.read(offset, there === buffer.length ? buffer : buffer.subarray(0, there));
  if (there < buffer.length) buffer.fill(0, there);
}
