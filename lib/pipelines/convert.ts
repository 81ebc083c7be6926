import { ImageError } from '../core/errors.ts';
import { throwIfAborted } from '../core/streams.ts';
import { tracePoint } from '../core/trace.ts';
import type { Target } from '../sinks/target.ts';
import type { OpenedImage } from '../sources/open.ts';
import type { SnapshotSelector } from '../sources/source.ts';
import type { CacheMode } from '../storage/storage.ts';
import { sizeOfBacking } from './backing.ts';
import { bitmapsToCopy, type CopiedBitmaps, checkBitmaps, copyBitmaps } from './bitmaps.ts';
import { canGrow, checkedDriver, creationFailure } from './checks.ts';
import { backingFormat, backingName, checkOptions, checkOutputFormat } from './convert-checks.ts';
import { type CopyInput, type CopyOptions, copy, planOf } from './copy.ts';
import { type ForwardInput, isForward, openInput } from './input.ts';
import { aboveBacking, concatenate, paddedSize } from './mapped.ts';
import { openOutput } from './output.ts';
import type { CacheOptions, ImageReference, ProgressOptions, VerbOptions } from './reference.ts';

export interface ConvertOptions extends VerbOptions, ProgressOptions, CacheOptions {
  /** One or more images, copied one after the other into one disk. */
  inputs: readonly ImageReference[];
  output: ImageReference;
  /** `-O`; default `raw`. Absent where `output` is an option string or a NodeSpec. */
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
  /** `--bitmaps`: the persistent bitmaps of the input's top layer are copied. */
  bitmaps?: boolean;
  /** `--skip-broken-bitmaps`: but not those that are inconsistent. */
  skipBrokenBitmaps?: boolean;
  /** `-t`; default `unsafe`. */
  cache?: CacheMode;
  /** Told of what went wrong without ending the command; the text has no program name. */
  onWarning?: (message: string) => void;
}

export interface ConvertResult {
  /** Guest size of the output in bytes; null where the output found it out by itself (an input of unknown length). */
  size: number | null;
  /** Guest bytes written as data, compressed data included. */
  written: number;
}

const DEFAULT_SPARSE = 4096;
const DEFAULT_PARALLEL = 8;

const traceConvert = tracePoint('convert');

type Input = OpenedImage | ForwardInput;

/**
 * Copies images into one new (or existing) image: `qemu-img convert`.
 * Rejects with an ImageError; a new output that was not completed is then not recognisable as an image.
 */
export async function convert(options: ConvertOptions): Promise<ConvertResult> {
  checkOptions(options);
  const images: Input[] = [];
  try {
    for (const reference of options.inputs) {
      throwIfAborted(options.signal);
      images.push(await openConvertInput(reference, options));
    }
    return await convertImages(images, options);
  } finally {
    for (const image of images) await (isForward(image) ? image.forward.close() : image.close());
  }
}

function openConvertInput(reference: ImageReference, options: ConvertOptions): Promise<Input> {
  const { drivers, implicit, secrets, forceShare, signal, sourceCache: cache, snapshot, inputs, output } = options;
  const sharing = { forceShare, denyWriters: true };
  const common = { drivers, implicit, secrets, ...sharing, signal, cache, snapshot, outputFilename: output.filename };
  // Pipes are joined, overlaid and asked for bitmaps only as files.
  const forward = inputs.length === 1 && backingName(options) === undefined && !options.bitmaps;
  // An output that exists has its size.
  const sized = options.create !== false && !canGrow(outputFormat(options) ?? 'raw', drivers);
  return forward ? openInput(reference, { ...common, forward, sized }) : openInput(reference, common);
}

async function convertImages(images: Input[], options: ConvertOptions): Promise<ConvertResult> {
  const size = sizeOf(images);
  const format = outputFormat(options);
  const isNew = options.create !== false;
  if (isNew) checkOutputFormat(options, format ?? 'raw');
  const bitmaps = options.bitmaps ? await inputBitmaps(images[0] as OpenedImage, format, options) : null;
  const keepUnallocated = backingName(options) !== undefined;
  const input = await inputOf(images, options);
  throwIfAborted(options.signal);
  const target = await openConvertOutput(options, input, size, format);
  try {
    checkTarget(target, size, options);
  } catch (error) {
    await target.abort();
    throw error;
  }
  if (traceConvert.enabled) traceConvert.emit({ inputs: images.length, output: target.name, size, format });
  const settings = copyOptions(options, target, size === null, keepUnallocated);
  const written =
    bitmaps === null ? await copy(input, target, settings) : await copyWith(bitmaps, input, target, settings);
  return { size, written };
}

function inputBitmaps(image: OpenedImage, format: string | null, options: ConvertOptions): Promise<CopiedBitmaps> {
  const { drivers, skipBrokenBitmaps: skipBroken = false, onWarning } = options;
  return bitmapsToCopy(image, { outputFormat: format ?? 'raw', drivers, skipBroken, onWarning });
}

/** Bitmaps follow the data: those that the output has record what is written to it. */
async function copyWith(bitmaps: CopiedBitmaps, input: CopyInput, target: Target, options: CopyOptions) {
  try {
    const editor = await checkBitmaps(target, bitmaps);
    const written = await copy(input, target, { ...options, close: false });
    await copyBitmaps(editor, bitmaps);
    await target.close();
    return written;
  } catch (error) {
    await target.abort().catch(() => {});
    throw error;
  }
}

function sizeOf(images: readonly Input[]): number | null {
  let total = 0;
  for (const image of images) {
    const size = isForward(image) ? image.forward.size : image.chain.size;
    if (size === null) return null;
    total += paddedSize(size);
  }
  return total;
}

/** `-O`, or what the option string says; null: what it leaves open is probed. */
function outputFormat({ output, outputFormat: given }: ConvertOptions): string | null {
  if ('file' in output) return output.driver;
  if (output.imageOpts) return given ?? null;
  return given ?? output.format ?? 'raw';
}

async function inputOf(images: readonly Input[], options: ConvertOptions): Promise<CopyInput> {
  const [first] = images;
  if (isForward(first)) return { batches: first.forward.batches(), size: first.forward.size };
  const opened = images as readonly OpenedImage[];
  const backing = backingName(options);
  if (backing === undefined) return { mapped: concatenate(opened.map(({ chain }) => chain)) };
  const backingSize = await sizeOfBacking(backing, backingFormat(options) ?? null, options);
  return { mapped: concatenate([aboveBacking(first.source, first.chain, backingSize)]) };
}

async function openConvertOutput(
  options: ConvertOptions,
  input: CopyInput,
  size: number | null,
  format: string | null,
): Promise<Target> {
  const {
    output,
    drivers,
    implicit,
    secrets,
    signal,
    cache = 'unsafe',
    compress = false,
    createOptions,
    bitmaps,
  } = options;
  const common = { drivers, implicit, secrets, signal, cache, size, format };
  if (options.create === false) {
    if (format !== null) checkedDriver(format, drivers);
    return openOutput(output, { ...common, existing: true });
  }
  const keepUnallocated = backingName(options) !== undefined;
  const plan = planOf(input, options.sparseSize === 0, keepUnallocated);
  const backing = options.backing && { ...options.backing, format: backingFormat(options) };
  try {
    // The inputs decide the size, whatever the options say.
    const { size: _size, ...rest } = createOptions ?? {};
    return await openOutput(output, { ...common, createOptions: rest, backing, plan, compress, bitmaps });
  } catch (error) {
    throw creationFailure(error, output.filename, `error while converting ${format ?? 'raw'}`);
  }
}

function checkTarget(target: Target, size: number | null, { create, compress }: ConvertOptions): void {
  if (create === false && size !== null && target.size < size) {
    throw new ImageError('invalid', 'output file is smaller than input file');
  }
  if (compress && target.compressor === undefined) {
    throw new ImageError('unsupported', 'Compression not supported for this file format');
  }
}

function copyOptions(options: ConvertOptions, target: Target, grows: boolean, keepUnallocated: boolean) {
  const { sparseSize = DEFAULT_SPARSE, parallel = DEFAULT_PARALLEL, outOfOrder, compress, copyOffload } = options;
  const { onWarning, onProgress, signal } = options;
  return {
    sparseSize,
    parallel,
    ordered: !outOfOrder,
    compress: compress ?? false,
    copyOffload: copyOffload ?? false,
    // A disk of unknown size learns from zeros, too, how far it reaches.
    skipZeros: !grows && (target.readsAsZero || options.targetIsZero === true),
    keepUnallocated,
    rate: options.rate ?? 0,
    onUnreadable: options.salvage
      ? (offset: number, error: ImageError) => onWarning?.(`error while reading offset ${offset}: ${error.message}`)
      : undefined,
    onProgress,
    signal,
  };
}
