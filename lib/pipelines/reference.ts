import type { Secrets } from '../crypto/secrets.ts';
import type { Driver } from '../formats/driver.ts';
import type { NodeSpec } from '../sources/filename.ts';
import type { CacheMode } from '../storage/storage.ts';

/** An image as a user names it: a filename (or `-`), or with `imageOpts` a text like `driver=qcow2,file.filename=x`. */
export interface NamedImage {
  filename: string;
  /** Driver name; null or absent: probed (an input), or the verb's default (an output). */
  format?: string | null;
  /** `filename` is an option string: `--image-opts`, `--target-image-opts`. */
  imageOpts?: boolean;
}

/** What verbs take as inputs and outputs. */
export type ImageReference = NamedImage | NodeSpec;

/** Asked before a backing file or data file that an image names is opened. */
export type ImplicitOpens = 'allow' | 'refuse' | ((reference: string, from: string) => boolean | Promise<boolean>);

/** What every data verb takes. */
export interface VerbOptions {
  /** The formats to know; all registered ones by default. */
  drivers?: readonly Driver[];
  /** Whether files that images refer to may be opened: allowed by default. */
  implicit?: ImplicitOpens;
  /** What `key-secret` options of the images name. */
  secrets?: Secrets;
  /** `-U`: open inputs that another process writes to. */
  forceShare?: boolean;
  /** Stops the verb: nothing stays in flight, an unfinished output is given up, the promise rejects (`aborted`). */
  signal?: AbortSignal;
}

/** Verbs that take a while tell how far they are. */
export interface ProgressOptions {
  /** Called as work is done, with rising `done`; units of both are bytes of guest disk to be looked at. */
  onProgress?: (done: number, total: number) => void;
}

/** Cache modes of inputs and output: `-T` and `-t`. */
export interface CacheOptions {
  /** Default `writeback`. */
  sourceCache?: CacheMode;
}
