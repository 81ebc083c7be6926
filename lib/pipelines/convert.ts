import type { SnapshotSelector } from '../sources/source.ts';
import type { CacheMode } from '../storage/storage.ts';
import type { CacheOptions, ImageReference, ProgressOptions, VerbOptions } from './reference.ts';

export interface ConvertOptions extends VerbOptions, ProgressOptions, CacheOptions {
  /** One or more images, copied one after the other into one disk. */
  inputs: readonly ImageReference[];
  output: ImageReference;
  /** `-O`; default `raw`. Must be absent when `output` is an option string or a NodeSpec. */
  outputFormat?: string | null;
  /** `-c` */
  compress?: boolean;
  /** `-n` is `create: false`: the output exists and is opened. */
  create?: boolean;
  /** `--target-is-zero`: an existing output is known to read as zeros; needs `create: false`. */
  targetIsZero?: boolean;
  /** `-o` key=value pairs, as text. */
  createOptions?: Readonly<Record<string, string>>;
  /** `-B` (or `backing_file=`): areas that the input leaves to its own backing file are not copied. */
  backing?: { filename: string; format?: string | null };
  /** `-l` */
  snapshot?: SnapshotSelector;
  /** `-S`: runs of zeros at least this long become sparse; bytes, a multiple of 512; 0 copies zeros too. Default 4096. */
  sparseSize?: number;
  /** `-m`: requests in flight, 1 to 16; default 8. */
  parallel?: number;
  /** `-W`: writes may happen in any order. */
  outOfOrder?: boolean;
  /** `-C`: let the kernel copy where it can. */
  copyOffload?: boolean;
  /** `-r`: bytes a second; 0 or absent: unlimited. */
  rate?: number;
  /** `--salvage`: what cannot be read becomes zeros, with a warning each. */
  salvage?: boolean;
  /** `--bitmaps` */
  bitmaps?: boolean;
  /** `--skip-broken-bitmaps` */
  skipBrokenBitmaps?: boolean;
  /** `-t`; default `unsafe`. */
  cache?: CacheMode;
  /** Told of what went wrong without ending the command; the text has no program name. */
  onWarning?: (message: string) => void;
}

export interface ConvertResult {
  /** Guest size of the output in bytes. */
  size: number;
  /** Guest bytes written as data, compressed data included. */
  written: number;
}

/**
 * Copies images into one new (or existing) image: `qemu-img convert`.
 * Rejects with an ImageError; a new output that was not completed is then not recognisable as an image.
 */
export type Convert = (options: ConvertOptions) => Promise<ConvertResult>;
