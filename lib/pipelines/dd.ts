import type { ImageReference, ProgressOptions, VerbOptions } from './reference.ts';

export interface DdOptions extends VerbOptions, ProgressOptions {
  input: ImageReference;
  output: ImageReference;
  /** `-O`; default `raw`. */
  outputFormat?: string | null;
  /** `bs=`: bytes, 1 to 2^31 - 1; default 512. */
  blockSize?: number;
  /** `count=`: blocks to copy at the most; absent: all. */
  count?: number;
  /** `skip=`: blocks of the input to pass over first; default 0. */
  skip?: number;
  /** Told of what went wrong without ending the command. */
  onWarning?: (message: string) => void;
}

export interface DdResult {
  /** Guest size of the output in bytes. */
  size: number;
}

/** Copies blocks of an image into a new one: `qemu-img dd`. Rejects with an ImageError. */
export type Dd = (options: DdOptions) => Promise<DdResult>;
