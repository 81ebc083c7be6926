import { drivers as allDrivers } from '../formats/index.ts';
import { parseImageOpts } from '../sources/filename.ts';
import { type OpenedImage, openImage } from '../sources/open.ts';
import type { ForwardSource, SnapshotSelector } from '../sources/source.ts';
import type { CacheMode } from '../storage/storage.ts';
import type { ImageReference, VerbOptions } from './reference.ts';

export interface OpenInputOptions extends Pick<VerbOptions, 'drivers' | 'implicit' | 'forceShare' | 'signal'> {
  cache?: CacheMode;
  /** False: leave the backing file alone. */
  backing?: boolean;
  /** The disk as an internal snapshot has it; a pipe is then spooled. */
  snapshot?: SnapshotSelector;
  /**
   * The caller can take a ForwardSource. Default false: what comes through a pipe is then spooled to a
   * temporary file, and the result is always an OpenedImage.
   */
  forward?: boolean;
  /** The output's filename (or `-`): a pipe that must be spooled is spooled beside it. */
  outputFilename?: string | null;
}

/** An input that can only be read once, from its first byte to its last. */
export interface ForwardInput {
  forward: ForwardSource;
}

/** Whether the input came as a stream: `'forward' in input`, with a name. */
export function isForward(input: OpenedImage | ForwardInput): input is ForwardInput {
  return 'forward' in input;
}

/** `-` as a whole filename means standard input or output; `--image-opts` has no such word. */
export function isStandardStream(reference: ImageReference): boolean {
  return !('file' in reference) && reference.filename === '-' && reference.imageOpts !== true;
}

/**
 * Opens what a verb reads from. `-` is standard input: an ordinary seekable image where a file was
 * redirected into it; from a pipe a ForwardSource if `forward` allows it and the image's layout does,
 * else an image spooled to a temporary file without a name, gone when the process is.
 * Throws an ImageError.
 */
export function openInput(
  reference: ImageReference,
  options: OpenInputOptions & { forward: true },
): Promise<OpenedImage | ForwardInput>;
export function openInput(
  reference: ImageReference,
  options?: OpenInputOptions & { forward?: false },
): Promise<OpenedImage>;
export async function openInput(
  reference: ImageReference,
  options: OpenInputOptions = {},
): Promise<OpenedImage | ForwardInput> {
  const { drivers = allDrivers(), implicit, cache, backing, snapshot } = options;
  const common = { drivers, implicit, cache, backing, snapshot };
  if ('file' in reference) return openImage(reference, common);
  const { filename, format = null, imageOpts = false } = reference;
  if (imageOpts) return openImage(parseImageOpts(filename), common);
  return openImage(filename, { ...common, format });
}
