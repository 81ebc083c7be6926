import type { CacheOptions, ImageReference, ProgressOptions, VerbOptions } from './reference.ts';

export interface CompareOptions extends VerbOptions, ProgressOptions, CacheOptions {
  left: ImageReference;
  right: ImageReference;
  /** `-s`: different sizes and different allocation are differences too. */
  strict?: boolean;
}

/** The first difference found. */
export type Difference =
  /** Contents differ; `offset` is the first byte of the differing 512-byte sector. */
  | { kind: 'content'; offset: number }
  /** Strict mode only: sizes differ. */
  | { kind: 'size' }
  /** Strict mode only: one is allocated (or zero) where the other is not. */
  | { kind: 'allocation'; offset: number };

export interface CompareResult {
  identical: boolean;
  /** Null when identical. */
  difference: Difference | null;
  /** Guest sizes in bytes; where they differ without `strict`, the longer one's tail is zeros if identical. */
  leftSize: number;
  rightSize: number;
}

/** What failed inside compare, for its exit code: opening is 2, asking for the map is 3, reading is 4. */
export type ComparePhase = 'open' | 'map' | 'read';

/** Compares guest contents: `qemu-img compare`. Rejects with a CompareError (an ImageError with a phase). */
export type Compare = (options: CompareOptions) => Promise<CompareResult>;
