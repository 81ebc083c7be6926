import type { Measurement } from '../formats/driver.ts';
import type { SnapshotSelector } from '../sources/source.ts';
import type { ImageReference, VerbOptions } from './reference.ts';

export interface MeasureOptions extends VerbOptions {
  /** The image whose contents would be converted; exactly one of `image` and `size` is given. */
  image?: ImageReference;
  /** `--size`: guest bytes of an image without data. */
  size?: number;
  /** `-O`; default `raw`. */
  outputFormat?: string | null;
  /** `-o` key=value pairs, as text. */
  createOptions?: Readonly<Record<string, string>>;
  /** `-l` */
  snapshot?: SnapshotSelector;
}

export type MeasureResult = Measurement;

/** How large a file the image would become: `qemu-img measure`. Rejects with an ImageError. */
export type Measure = (options: MeasureOptions) => Promise<MeasureResult>;
