import { ImageError } from '../core/errors.ts';
import type { Extent, ExtentBatch } from '../core/extent.ts';
import { BATCH_BYTES, pipeline, readableFrom, type Stage } from '../core/streams.ts';
import type { ExtentPlan, Target } from '../sinks/target.ts';
import { targetWritable } from '../sinks/writable.ts';
import { extentStream, type Mapped, walkExtents } from '../sources/extents.ts';
import { align } from '../transforms/align.ts';
import { compress } from '../transforms/compress.ts';
import { fillZeros } from '../transforms/fill-zeros.ts';
import { load } from '../transforms/load.ts';
import { offload } from '../transforms/offload.ts';
import { rate } from '../transforms/rate.ts';
import type { OnUnreadable } from '../transforms/reading.ts';
import { sparseDetect } from '../transforms/sparse-detect.ts';

const UNITS_AT_ONCE = 16;

/** Where the guest's bytes come from: a map to be loaded, or loaded batches in guest order. */
export type CopyInput = { mapped: Mapped } | { batches: AsyncIterable<ExtentBatch>; size: number | null };

export interface CopyOptions {
  /** `-S`; 0: zeros are written out. */
  sparseSize: number;
  /** Requests in flight, of 1 MiB: half of them read, half of them write. */
  parallel: number;
  ordered: boolean;
  compress: boolean;
  copyOffload: boolean;
  /** The target reads as zeros where nothing is written. */
  skipZeros: boolean;
  /** `unallocated` is left to the target's backing file. */
  keepUnallocated: boolean;
  /** Bytes a second; 0: as fast as it goes. */
  rate: number;
  /** False: the caller completes the target, or gives it up. Default true. */
  close?: boolean;
  onUnreadable?: OnUnreadable;
  onProgress?: (done: number, total: number) => void;
  signal?: AbortSignal;
}

/** Loads, looks for zeros, compresses, writes, and (unless `close` is false) completes the target. Resolves to the guest bytes written. */
export async function copy(input: CopyInput, target: Target, options: CopyOptions): Promise<number> {
  const progress = progressOf(input, options);
  let copied = 0;
  const sink = targetWritable(target, {
    window: inFlight(options),
    skipZeros: options.skipZeros,
    unallocated: options.keepUnallocated ? 'skip' : 'zero',
    close: options.close,
    onWritten: ({ length }) => progress(length),
  });
  const onCopied = (bytes: number) => {
    copied += bytes;
    progress(bytes);
  };
  const first = firstStages(input, target, options, onCopied);
  await pipeline(...first, ...middleStages(target, options), sink, { signal: options.signal });
  return sink.bytesWritten + copied;
}

function progressOf(input: CopyInput, { onProgress }: CopyOptions): (bytes: number) => void {
  const total = 'mapped' in input ? input.mapped.size : input.size;
  let done = 0;
  return (bytes) => {
    done += bytes;
    if (total !== null) onProgress?.(Math.min(done, total), total);
  };
}

function firstStages(
  input: CopyInput,
  target: Target,
  options: CopyOptions,
  onCopied: (bytes: number) => void,
): [Stage, ...Stage[]] {
  if ('batches' in input) return [readableFrom(input.batches)];
  const { onUnreadable } = options;
  const ordered = options.ordered || target.sequential;
  const loader = load({
    parallel: inFlight(options),
    ordered,
    unit: unitOf(target, options),
    pooled: true,
    onUnreadable,
  });
  const source = extentStream(input.mapped);
  return options.copyOffload ? [source, offload(target, onCopied), loader] : [source, loader];
}

function middleStages(target: Target, options: CopyOptions): Stage[] {
  const { keepUnallocated, sparseSize: size } = options;
  const unit = unitOf(target, options);
  const stages: Stage[] = [];
  if (size === 0) stages.push(fillZeros({ keepUnallocated }));
  if (unit > 1) stages.push(align(unit, { keepUnallocated }));
  if (size > 0) stages.push(sparseDetect({ size, unit }));
  if (options.compress) {
    const { compressor } = target;
    if (compressor === undefined) throw new ImageError('unsupported', 'Compression not supported for this file format');
    const ordered = options.ordered || target.sequential;
    stages.push(compress(compressor, { parallel: packing(unit, options), ordered, size: target.size }));
  }
  if (options.rate > 0) stages.push(rate(options.rate));
  return stages;
}

/**
 * Batches in flight on either side, for `-m` requests: a batch is as much as qemu-img has in a few requests, and more
 * would only wait, since a file takes one write at a time (writers that spin for its lock cost the readers a core).
 */
function inFlight({ parallel }: CopyOptions): number {
  return Math.ceil(parallel / 4);
}

/** Batches in compression: enough units for every thread and the next ones, and no more, as each takes much memory. */
function packing(unit: number, { parallel }: CopyOptions): number {
  const perBatch = Math.max(1, Math.floor(BATCH_BYTES / unit));
  return Math.min(parallel, Math.max(2, Math.ceil(UNITS_AT_ONCE / perBatch)));
}

function unitOf(target: Target, options: CopyOptions): number {
  if (options.compress) return target.compressor?.unit ?? target.granularity;
  return target.sparseUnit ?? target.granularity;
}

/** What `copy` will write, for an output that must know before; null where that only shows as it comes. */
export function planOf(input: CopyInput, fillsZeros: boolean, keepUnallocated: boolean): ExtentPlan | null {
  if ('batches' in input) return null;
  const { mapped } = input;
  return async function* plan() {
    for await (const { extents } of walkExtents(mapped)) {
      yield fillsZeros ? extents.map((each) => filled(each, keepUnallocated)) : extents;
    }
  };
}

function filled(each: Extent, keepUnallocated: boolean): Extent {
  return each.kind === 'data' || (keepUnallocated && each.kind === 'unallocated') ? each : { ...each, kind: 'data' };
}
