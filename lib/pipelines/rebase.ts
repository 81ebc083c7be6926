import { realpath } from 'node:fs/promises';
import { ImageError, strerror } from '../core/errors.ts';
import { BATCH_BYTES, pipeline, throwIfAborted } from '../core/streams.ts';
import { tracePoint } from '../core/trace.ts';
import type { Driver } from '../formats/driver.ts';
import { drivers as allDrivers } from '../formats/index.ts';
import { targetOf } from '../formats/open-target.ts';
import type { Target } from '../sinks/target.ts';
import { targetWritable } from '../sinks/writable.ts';
import { extentStream } from '../sources/extents.ts';
import { backingNode, type OpenedImage, openImage } from '../sources/open.ts';
import type { BackingReference, Source } from '../sources/source.ts';
import type { CacheMode } from '../storage/storage.ts';
import { keepDifferences } from '../transforms/keep-differences.ts';
import { load } from '../transforms/load.ts';
import { changedBeneath, padded } from './beneath.ts';
import { layersOf } from './layers.ts';
import { nodeOf } from './node.ts';
import type { CacheOptions, ImageReference, ProgressOptions, VerbOptions } from './reference.ts';

export interface RebaseOptions extends VerbOptions, ProgressOptions, CacheOptions {
  image: ImageReference;
  /** `-b`, `-F`: as the header shall have them, relative to the image; null, or an empty name: none. */
  backing: { filename: string; format: string | null } | null;
  /** `-u`: only the header changes, whatever the disk then shows. Neither backing file is opened. */
  unsafe?: boolean;
  /** `-t`; default `writeback`. */
  cache?: CacheMode;
}

export interface RebaseResult {
  /** Guest bytes written as data, to keep what the image showed of its old backing file. */
  written: number;
}

/** Batches in flight at each stage. */
const PARALLEL = 2;

const traceRebase = tracePoint('rebase');

/**
 * Puts another backing file under an image, or none: `qemu-img rebase`. First the image gets what it showed of the old one and
 * the new one says otherwise, in whole clusters; the header comes last, when that is on the disk. So the disk shows the same at
 * every moment. Rejects with an ImageError; the backing file is then the old one.
 */
export async function rebase(given: RebaseOptions): Promise<RebaseResult> {
  const options = given.backing?.filename === '' ? { ...given, backing: null } : given;
  const { image, cache = 'writeback', drivers = allDrivers(), implicit, secrets, unsafe = false, signal } = options;
  throwIfAborted(signal);
  const common = { cache, drivers, implicit, secrets };
  const opened = await openImage(nodeOf(image), { ...common, writable: true, ...(unsafe ? { backing: false } : {}) });
  let below: NewBacking;
  try {
    checkFormat(given, drivers);
    below = unsafe ? NO_BACKING : await openNewBacking(opened, options);
  } catch (error) {
    await opened.close();
    throw error;
  }
  try {
    // What is written goes over the old backing file, and zeros must hide also what the new one has behind its end.
    const old = padded(opened.backing?.chain ?? null, opened.source.size);
    const target = await targetOf(opened, unsafe ? common : { ...common, backing: old as Source });
    return await complete(target, options, async () => (unsafe ? 0 : fill(target, old, below.chain, options)));
  } finally {
    await below.opened?.close();
  }
}

/** Does the work, changes the header, and closes the image, whatever comes. */
async function complete(target: Target, options: RebaseOptions, work: () => Promise<number>): Promise<RebaseResult> {
  const { backing } = options;
  try {
    checkSupport(target, options);
    const written = await work();
    await target.flush();
    if (traceRebase.enabled) traceRebase.emit({ file: target.name, backing: backing?.filename ?? '', written });
    await target.setBacking?.(backing).catch((error) => {
      throw couldNotChange(error, options);
    });
    await target.close();
    return { written };
  } catch (error) {
    await target.abort().catch(() => {});
    throw error;
  }
}

function checkFormat({ backing }: RebaseOptions, drivers: readonly Driver[]): void {
  const format = backing?.format ?? null;
  if (format === null || drivers.some(({ name }) => name === format)) return;
  throw new ImageError('invalid', `Invalid format name: '${format}'`);
}

/** What can't end well is not begun. */
function checkSupport({ setBacking, name, format }: Target, options: RebaseOptions): void {
  const { backing } = options;
  const context = { file: name, format, operation: 'rebase' };
  if (backing !== null && backing.format === null) {
    throw couldNotChange(new ImageError('invalid', 'backing format must be specified', context), options);
  }
  if (setBacking !== undefined) return;
  const code = 'EOPNOTSUPP';
  throw couldNotChange(new ImageError('unsupported', strerror(code), { ...context, code }), options);
}

interface NewBacking {
  /** Null: there will be none. */
  chain: Source | null;
  /** What was opened for it; null where it is a part of the old chain. */
  opened: OpenedImage | null;
}

const NO_BACKING: NewBacking = { chain: null, opened: null };

async function openNewBacking(image: OpenedImage, options: RebaseOptions): Promise<NewBacking> {
  const { backing, drivers = allDrivers(), implicit, secrets, forceShare, sourceCache: cache = 'writeback' } = options;
  if (backing === null) return NO_BACKING;
  const { filename, format } = backing;
  try {
    const node = backingNode(filename, format, image.storage);
    const opened = await openImage(node, { drivers, cache, implicit, secrets, forceShare });
    await refuseItself(image, opened);
    const known = await sameLayer(layersOf(image).slice(1), opened);
    if (known === null) return { chain: opened.chain, opened };
    await opened.close();
    return { chain: known.chain, opened: null };
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    const { kind, file = filename, offset, code } = error;
    // The name is told as the user wrote it, and once.
    const reason = error.cause instanceof ImageError ? error.cause.message : error.message;
    const message = `Could not open new backing file '${filename}': ${reason}`;
    throw new ImageError(kind, message, { file, operation: 'open', offset, code, cause: error });
  }
}

async function refuseItself(image: OpenedImage, opened: OpenedImage): Promise<void> {
  const own = await place(image);
  for (const layer of layersOf(opened)) {
    if (own === null || own !== (await place(layer))) continue;
    await opened.close();
    throw new ImageError('refused', `The image itself would be its own backing file`, { file: image.filename });
  }
}

/** The layer of the old chain that the new backing file is, if it is opened alike: what they share needs no comparing. */
async function sameLayer(layers: readonly OpenedImage[], opened: OpenedImage): Promise<OpenedImage | null> {
  const wanted = await place(opened);
  if (wanted === null || !isPlain(opened)) return null;
  for (const layer of layers) {
    if (isPlain(layer) && layer.source.format === opened.source.format && (await place(layer)) === wanted) return layer;
  }
  return null;
}

/** Nothing but a file and its format: no options, and the backing file that its header names. */
function isPlain({ node, backing }: OpenedImage): boolean {
  const plain = node.backing === undefined && Object.keys(node.options).length === 0;
  const file = Object.keys(node.file).every((key) => key === 'driver' || key === 'filename');
  return plain && file && (backing === null || isPlain(backing));
}

async function place({ storage: { path } }: OpenedImage): Promise<string | null> {
  return path === null ? null : realpath(path).catch(() => null);
}

type Disk = ReturnType<typeof padded>;

/** Writes what the image would lose with the new backing file. */
async function fill(target: Target, before: Disk, below: Source | null, options: RebaseOptions): Promise<number> {
  const { onProgress, signal } = options;
  // Where clusters are larger, the target fills them up.
  const unit = Math.min(target.granularity, BATCH_BYTES);
  const after = padded(below, before.size);
  let done = 0;
  const sink = targetWritable(target, {
    window: PARALLEL,
    // The new backing file may have something else there.
    skipZeros: false,
    unallocated: 'skip',
    close: false,
    onWritten: ({ length }) => {
      done += length;
      onProgress?.(done, target.size);
    },
  });
  await pipeline(
    extentStream(changedBeneath(target.source as Source, before, after)),
    load({ parallel: PARALLEL, unit: Math.max(unit, 64 * 1024), pooled: true }),
    keepDifferences(after, { unit, parallel: PARALLEL }),
    sink,
    { signal },
  );
  return sink.bytesWritten;
}

function couldNotChange(error: unknown, { backing }: RebaseOptions): unknown {
  if (!(error instanceof ImageError) || error.kind === 'aborted') return error;
  const { kind, message, file, format, offset, code } = error;
  const text = `Could not change the backing file to '${(backing as BackingReference | null)?.filename ?? ''}': ${message}`;
  return new ImageError(kind, text, { file, format, operation: 'rebase', offset, code, cause: error });
}
