import type { AnyOptionValues, OptionSchema } from '../core/options.ts';
import type { Secrets } from '../crypto/secrets.ts';
import type { CheckReport, CheckRequest } from '../sinks/checks.ts';
import type { ExtentPlan, Target } from '../sinks/target.ts';
import type {
  Gate,
  LayerInfo,
  SnapshotInfo,
  SnapshotSelector,
  Source,
  SourceDriver,
  SourceRequest,
} from '../sources/source.ts';
import type { CacheMode, Storage } from '../storage/storage.ts';

export type { CheckReport, CheckRequest };

/** What a driver gets to make an image with. */
export interface CreateRequest {
  storage: Storage;
  /** Guest size in bytes. */
  size: number;
  /** Parsed by `createOptions`; `size`, `backing_file` and `backing_fmt` are taken out. */
  options: AnyOptionValues;
  /** What the header shall say, and the opened backing chain for copy-on-write (null: not opened). */
  backing: { filename: string; format: string | null; source: Source | null } | null;
  cache: CacheMode;
  gate: Gate;
  /** What `key-secret` options name. */
  secrets?: Secrets;
}

/** A `create` for an output that can only be written forward. */
export interface StreamRequest extends Omit<CreateRequest, 'size'> {
  /** Guest size; null where the input's end is not known yet. */
  size: number | null;
  /** The extents that will come, as the source's map tells them; null for inputs without a map. */
  plan: ExtentPlan | null;
  /** Whether compressed units will be written. */
  compress: boolean;
}

export interface OpenTargetRequest extends SourceRequest {
  /** The opened backing chain, for copy-on-write. */
  backing: Source | null;
}

export interface MeasureRequest {
  /** Guest size in bytes. */
  size: number;
  options: AnyOptionValues;
  /** The extents to be stored; null measures a disk without data. */
  plan: ExtentPlan | null;
  /** The source has a backing file whose contents the new image will not repeat. */
  hasBacking: boolean;
  /** What `key-secret` options name. */
  secrets?: Secrets;
  /** What the source says of itself (its bitmaps, say); absent or null without one. */
  description?: LayerInfo | null;
}

export interface Measurement {
  /** Bytes that the file will take at the least, given the data. */
  required: number;
  /** Bytes when every cluster is allocated. */
  fullyAllocated: number;
  /** Bytes for persistent bitmaps, where the source has or could have them. */
  bitmaps?: number;
}

export interface AmendRequest extends OpenTargetRequest {
  /** Parsed by `amendOptions`; only what was given. */
  values: AnyOptionValues;
  force: boolean;
  /** Part done, from 0 to 1. */
  onProgress?: (part: number) => void;
}

/** Internal snapshots of an open image. Each method leaves a valid image at any moment. */
export interface SnapshotEditor {
  list(): Promise<readonly SnapshotInfo[]>;
  create(name: string): Promise<void>;
  apply(idOrName: string): Promise<void>;
  delete(which: string | SnapshotSelector): Promise<void>;
  /** Flushes and closes. */
  close(): Promise<void>;
}

/**
 * The index card of a format. An absent member means that the format cannot do it, and gives one
 * uniform error.
 */
export interface Driver extends SourceDriver {
  /** The keys of `-o`, in the order of `-o help`. */
  readonly createOptions?: OptionSchema;
  /** The keys that the line `Formatting …` shows, in its order. */
  readonly formattingOrder?: readonly string[];
  /** Makes a new image and returns it opened for writing; `close` completes it. */
  create?(request: CreateRequest): Promise<Target>;
  /** Makes a new image in one forward pass, to a pipe; the Target is `sequential`. */
  createStream?(request: StreamRequest): Promise<Target>;
  /** Opens an existing image for writing. */
  openTarget?(request: OpenTargetRequest): Promise<Target>;
  measure?(request: MeasureRequest): Promise<Measurement>;
  /**
   * Checks the image's structure, and repairs what `repair` allows. Reads all from `storage` anew, and leaves it open
   * and flushed: after a repair the verb calls it once more with `repair` null, to see what is left. What was found is
   * in the report; it throws an ImageError only where the check could not go on.
   */
  check?(request: CheckRequest): Promise<CheckReport>;
  /** The keys of `amend -o`, in the order of its help. */
  readonly amendOptions?: OptionSchema;
  /** Changes what the image was made with. */
  amend?(request: AmendRequest): Promise<void>;
  openSnapshots?(request: OpenTargetRequest): Promise<SnapshotEditor>;
  /**
   * A new image can be made without knowing its size: its Target has `truncate`. Where that is not so, an input of
   * unknown length is spooled first.
   */
  readonly growable?: boolean;
  /** `-B`, `-b`: the format can refer to a backing file. */
  readonly supportsBacking?: boolean;
  /** `-c`: the format has compressed clusters. */
  readonly supportsCompression?: boolean;
  /** The format has persistent dirty bitmaps: `--bitmaps`. */
  readonly supportsBitmaps?: boolean;
}
