import type { ByteReader, Extent } from '../core/extent.ts';
import type { Secrets } from '../crypto/secrets.ts';
import type { CacheMode, Storage } from '../storage/storage.ts';
import type { FileRole, Sharing } from './sharing.ts';

/** What an image says of its backing file. */
export interface BackingReference {
  /** As the header has it; may be relative, or a `json:` filename. */
  filename: string;
  /** Format that the header names; null makes the opener probe. */
  format: string | null;
}

/** An internal snapshot, as `snapshot -l` and `info` show it. */
export interface SnapshotInfo {
  id: string;
  name: string;
  /** Bytes of saved machine state. */
  vmStateSize: number;
  /** Seconds and nanoseconds since the epoch. */
  dateSeconds: number;
  dateNanoseconds: number;
  /** Guest clock in nanoseconds; may exceed 2^53. */
  vmClockNanoseconds: bigint;
  /** Guest instructions executed, or -1. */
  icount: bigint;
  /** Guest disk size when it was taken. */
  diskSize: number;
}

/** JSON-like values, in QAPI's names: what `info` prints under "Format specific information". */
export type InfoValue = string | number | boolean | InfoValue[] | { [key: string]: InfoValue };

/** What `info` shows of one layer beyond name, format and sizes. */
export interface LayerInfo {
  clusterSize?: number;
  encrypted?: boolean;
  compressed?: boolean;
  /** Absent where the format has no such flag: false. Null: QEMU's driver does not even say that, and `info` neither. */
  dirty?: boolean | null;
  snapshots?: SnapshotInfo[];
  formatSpecific?: { type: string; data: { [key: string]: InfoValue } };
}

/** A persistent dirty bitmap: which parts of the disk were written since some moment. */
export interface BitmapInfo {
  name: string;
  /** Guest bytes of one bit, a power of two. */
  granularity: number;
  /** Records writes. */
  enabled: boolean;
  /** Was not stored properly: it can't be relied on, nor used, only removed. */
  inconsistent: boolean;
}

/** The persistent dirty bitmaps of a layer, for reading. */
export interface BitmapReader {
  /** False where the format could hold bitmaps, but this image can't (qcow2 version 2). */
  readonly supported: boolean;
  /** Guest bytes that the bitmaps are about. */
  readonly size: number;
  list(): Promise<readonly BitmapInfo[]>;
  /** Marked guest ranges, ascending, inside the disk. `missing` where there is no such bitmap. */
  ranges(name: string): AsyncIterable<{ offset: number; length: number }>;
}

/**
 * One layer of guest bytes, read only: what a format is, seen from the reading side. A layer
 * answers for itself alone; ChainSource joins layers. All methods may be called concurrently.
 */
export interface Source extends ByteReader {
  /** Driver name. */
  readonly format: string;
  /** Guest disk size in bytes. */
  readonly size: number;
  /** The storage that holds the layer (its metadata, where data lie apart). */
  readonly storage: Storage;
  readonly backing: BackingReference | null;
  /** Allocation unit in bytes; 1 where there is none. */
  readonly granularity: number;
  /**
   * QEMU's driver of this format does not tell what is allocated: `map`, `measure` and a strict `compare` then call all
   * of it data, as qemu-img does, whatever this source's own map knows.
   */
  readonly opaque?: boolean;
  /**
   * Extents of [offset, offset + length), which must lie inside the disk: ascending, without gap
   * or overlap, coalesced, from `offset` on. May stop early (at the end of a table, say), but never
   * returns nothing; callers ask again from where it ended. No payload is read. `layer` is this
   * source, and `host`/`hostOffset` are set where the bytes lie plain.
   */
  map(offset: number, length: number): Promise<Extent[]>;
  /** Guest bytes of this layer; what it does not hold reads as zeros. */
  read(offset: number, buffer: Buffer): Promise<void>;
  /**
   * Loads many extents of this layer at once, where that beats single reads (runs of compressed
   * clusters). `buffers[i]` takes `extents[i]`.
   */
  readMany?(extents: readonly Extent[], buffers: readonly Buffer[]): Promise<void>;
  describe(): Promise<LayerInfo>;
  /**
   * Throws unless `below`, the layer of the backing file, is the one that this layer was made upon. Absent: the format
   * can't tell.
   */
  checkBacking?(below: Source): void;
  /** Bytes of disk space in use, where the layer lies in more files than `storage`. */
  allocatedBytes?(): Promise<number | null>;
  /** Absent: the format has no persistent bitmaps. */
  readonly bitmaps?: BitmapReader;
  /** The disk as an internal snapshot has it. Absent: the format has none. */
  openSnapshot?(selector: SnapshotSelector): Promise<Source>;
  /** Closes what the layer opened itself (data files), not `storage`: its opener does that. */
  close(): Promise<void>;
}

/** `-l snapshot.id=…,snapshot.name=…` (all given fields must match), or one word that is either. */
export interface SnapshotSelector {
  id?: string;
  name?: string;
  idOrName?: string;
}

export interface GateOpenOptions {
  writable?: boolean;
  create?: boolean;
  /** What the file has of the image, for its locks; absent: it is only looked at, without any. */
  role?: FileRole;
}

/** Opens what an image refers to. The one gate through which every implicit open goes. */
export interface Gate {
  /** Opens the storage that `reference`, found inside `from`, names. */
  openStorage(reference: string, from: Storage, options?: GateOpenOptions): Promise<Storage>;
}

/** What a driver gets to open an image with. */
export interface SourceRequest {
  storage: Storage;
  /** Runtime options of the node (`driver=qcow2,lazy-refcounts=on,…`), without `driver` and `file`. */
  options: Readonly<Record<string, unknown>>;
  /** The image will be written to through a Target. */
  writable: boolean;
  cache: CacheMode;
  gate: Gate;
  /** What `key-secret` options name. */
  secrets?: Secrets;
  /** For the locks of files that are opened beside `storage`, but for those of the gate. */
  sharing?: Sharing;
  /** Only `describe` will be asked: what only reading needs (data files, keys, tables) may be missing. */
  metadataOnly?: boolean;
  /** With `metadataOnly`: the image is going to be checked. What a check repairs is no reason to refuse it. */
  forCheck?: boolean;
}

/** The reading half of a driver: all that sources/open.ts needs to know of a format. */
export interface SourceDriver {
  /** QEMU's name for it: `qcow2`. */
  readonly name: string;
  /**
   * How sure the format is that `head` (the first 4096 bytes, fewer if the file is shorter) is its own: 0 is no,
   * 100 is certain. Raw says 1 to everything.
   */
  probe(head: Buffer, filename: string): number;
  /** All bytes of the disk have their places in the file, for good: several may write to it. */
  readonly plain?: boolean;
  openSource(request: SourceRequest): Promise<Source>;
  /** Can be read forward from a pipe: see ForwardSource. Absent: the pipe is spooled to a file. */
  openForward?(request: SourceRequest): Promise<ForwardSource>;
  /** Runtime options that openForward understands; absent: none. A pipe that is described with others is spooled. */
  readonly forwardOptions?: readonly string[];
}

/** An image read from a pipe in one pass. */
export interface ForwardSource {
  readonly format: string;
  readonly name: string;
  /** Guest bytes, or null until the pipe has ended. */
  readonly size: number | null;
  /**
   * Loaded extents in guest order, without gap or overlap; ends at the disk's end. Whoever consumes a
   * batch may release it. An image whose layout does not allow a forward pass throws ForwardImpossible
   * from the driver's openForward, before more than the pipe's replayable head was consumed.
   */
  batches(): AsyncIterable<import('../core/extent.ts').ExtentBatch>;
  close(): Promise<void>;
}
