import type { ImageReference, VerbOptions } from './reference.ts';

export interface MapOptions extends VerbOptions {
  image: ImageReference;
  /** `--start-offset`: bytes; default 0. */
  startOffset?: number;
  /** `--max-length`: bytes; absent: to the end. */
  maxLength?: number;
}

/** One line of `map --output=json`, in its own names. */
export interface MapEntry {
  start: number;
  length: number;
  /** Which layer: 0 is the image itself. */
  depth: number;
  /** Some layer of the chain holds it. */
  present: boolean;
  zero: boolean;
  data: boolean;
  /** Where the bytes lie plain in `filename`; absent otherwise. */
  offset?: number;
  /** The file that `offset` counts in. */
  filename?: string;
}

/** The map of an image, merged as `qemu-img map` merges it. Throws an ImageError while it is read. */
export type MapImage = (options: MapOptions) => AsyncGenerator<MapEntry, void, void>;
