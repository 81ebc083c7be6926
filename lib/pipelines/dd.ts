import type { ExtentBatch } from '../core/extent.ts';
import { throwIfAborted } from '../core/streams.ts';
import type { Target } from '../sinks/target.ts';
import { shifter } from '../transforms/shift.ts';
import { canGrow, checkedDriver, creatingDriver, creationFailure, positiveInteger } from './checks.ts';
import { type CopyInput, copy, planOf } from './copy.ts';
import { isForward, openInput } from './input.ts';
import { clip, concatenate, paddedSize, windowOf } from './mapped.ts';
import { openOutput } from './output.ts';
import type { ImageReference, ProgressOptions, VerbOptions } from './reference.ts';

export interface DdOptions extends VerbOptions, ProgressOptions {
  input: ImageReference;
  output: ImageReference;
  /** `-O`; default `raw`. */
  outputFormat?: string | null;
  /** `bs=`: bytes, 1 to 2^31 - 1; default 512. */
  blockSize?: number;
  /** `count=`: blocks of the input to look at, those passed over by `skip` included (as qemu-img has it); absent: all. */
  count?: number;
  /** `skip=`: blocks of the input to pass over first; default 0. */
  skip?: number;
  /** Told of what went wrong without ending the command. */
  onWarning?: (message: string) => void;
}

export interface DdResult {
  /** Guest size of the output in bytes; null where the output found it out by itself (an input of unknown length). */
  size: number | null;
}

/** The part of the input to copy; `end` is infinite where only the input's end decides. */
interface Range {
  start: number;
  end: number;
}

const PARALLEL = 8;
const SPARSE_SIZE = 4096;

/**
 * Copies blocks of an image into a new one: `qemu-img dd`, but zeros become holes, as `convert` has it.
 * Rejects with an ImageError.
 */
export async function dd(options: DdOptions): Promise<DdResult> {
  const range = rangeOf(options);
  const { signal } = options;
  const sized = !canGrow(options.outputFormat ?? 'raw', options.drivers);
  const outputFilename = options.output.filename;
  const image = await openInput(options.input, { ...options, forward: true, sized, outputFilename });
  try {
    throwIfAborted(signal);
    const known = isForward(image) ? image.forward.size : paddedSize(image.chain.size);
    const bounded = clamped(range, known, options);
    const size = bounded.end === Number.POSITIVE_INFINITY ? null : bounded.end - bounded.start;
    const input: CopyInput = isForward(image)
      ? { batches: between(image.forward.batches(), bounded), size }
      : { mapped: windowOf(concatenate([image.chain]), bounded.start, bounded.end - bounded.start) };
    const target = await openDdOutput(options, input, known === null ? null : size);
    await copy(input, target, copyOptions(options, target, size));
    return { size: known === null ? null : paddedSize(size ?? 0) };
  } finally {
    await (isForward(image) ? image.forward.close() : image.close());
  }
}

function rangeOf({ blockSize = 512, count, skip = 0 }: DdOptions): Range {
  positiveInteger(blockSize, 0x7fff_ffff, 'Invalid bs specified. Must be between 1 and 2147483647.');
  const end = count === undefined ? Number.POSITIVE_INFINITY : count * blockSize;
  return { start: skip * blockSize, end };
}

/** The range as far as the input's known size reaches, with dd's warning where nothing is left. */
function clamped({ start, end }: Range, size: number | null, { input, onWarning }: DdOptions): Range {
  const stop = Math.min(end, size ?? Number.POSITIVE_INFINITY);
  if (start <= stop) return { start, end: stop };
  onWarning?.(`${input.filename}: cannot skip to specified offset`);
  return { start: stop, end: stop };
}

/** Loaded batches cut to a range that then begins at 0; reads no further than its end. */
async function* between(batches: AsyncIterable<ExtentBatch>, { start, end }: Range): AsyncGenerator<ExtentBatch> {
  const shift = shifter(-start);
  if (start >= end) return;
  for await (const batch of batches) {
    const last = batch.end >= end;
    const kept = clip(batch, start, end, shift);
    if (kept.length > 0) yield batch.with(kept);
    else batch.release();
    if (last) return;
  }
}

async function openDdOutput(options: DdOptions, input: CopyInput, size: number | null): Promise<Target> {
  const { output, outputFormat, drivers, implicit, secrets, signal } = options;
  const format = outputFormat ?? 'raw';
  checkedDriver(format, drivers, 'Unknown file format');
  creatingDriver(format, drivers);
  const guestSize = size === null ? null : paddedSize(size);
  try {
    const plan = planOf(input, false, false);
    return await openOutput(output, {
      drivers,
      implicit,
      secrets,
      signal,
      format,
      size: guestSize,
      cache: 'unsafe',
      plan,
    });
  } catch (error) {
    throw creationFailure(error, output.filename, 'error while creating output image');
  }
}

function copyOptions({ signal, onProgress }: DdOptions, target: Target, size: number | null) {
  return {
    sparseSize: SPARSE_SIZE,
    parallel: PARALLEL,
    ordered: true,
    compress: false,
    copyOffload: false,
    // A disk of unknown size learns from zeros, too, how far it reaches.
    skipZeros: target.readsAsZero && size !== null,
    keepUnallocated: false,
    rate: 0,
    signal,
    onProgress,
  };
}
