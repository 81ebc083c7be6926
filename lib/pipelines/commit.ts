import { alignUp } from '../core/binary.ts';
import { ImageError, strerror } from '../core/errors.ts';
import type { Extent } from '../core/extent.ts';
import { pipeline, throwIfAborted } from '../core/streams.ts';
import { tracePoint } from '../core/trace.ts';
import { drivers as allDrivers } from '../formats/index.ts';
import { openTarget, targetOf } from '../formats/open-target.ts';
import type { Target } from '../sinks/target.ts';
import { targetWritable } from '../sinks/writable.ts';
import { extentStream, type Mapped } from '../sources/extents.ts';
import { type OpenedImage, openImage } from '../sources/open.ts';
import type { CacheMode } from '../storage/storage.ts';
import { align } from '../transforms/align.ts';
import { load } from '../transforms/load.ts';
import { rate } from '../transforms/rate.ts';
import { chainNode, findBelow, layersOf } from './layers.ts';
import { nodeOf } from './node.ts';
import type { ImageReference, ProgressOptions, VerbOptions } from './reference.ts';

export interface CommitOptions extends VerbOptions, ProgressOptions {
  image: ImageReference;
  /** `-b`: the layer to write to, as a header names it or as a path; default: the image's own backing file. */
  base?: string;
  /** `-d`: the image keeps what it holds. So it does with `base`. */
  keep?: boolean;
  /** `-t`; default `writeback`. */
  cache?: CacheMode;
  /** `-r`: bytes a second; 0 or absent: unlimited. */
  rate?: number;
}

export interface CommitResult {
  /** Guest bytes written to the base as data. */
  written: number;
}

const SECTOR = 512;
/** Batches in flight on either side. */
const PARALLEL = 4;

const traceCommit = tracePoint('commit');

/**
 * Writes what an image holds into its backing file, or into a deeper one together with what lies between: `qemu-img
 * commit`. A shorter base grows. When the base is flushed and closed, the image is emptied: its disk shows the same at every
 * moment. Rejects with an ImageError; the image is then as it was, and the base has parts of what it hides.
 */
export async function commit(options: CommitOptions): Promise<CommitResult> {
  const { upper, lower, emptied } = await split(options);
  const { cache, drivers, implicit, secrets } = common(options);
  const overlay = await openImage(chainNode(upper), {
    cache,
    drivers,
    implicit,
    secrets,
    writable: upper.length === 1 || emptied,
  });
  // From now on the target closes the overlay.
  const top = overlay.storage.writable ? await targetOf(overlay, { cache, drivers, implicit, secrets }) : null;
  try {
    const base = await openTarget(chainNode(lower), { cache, drivers, implicit, secrets }).catch((error) => {
      throw lockFailed(error);
    });
    const written = await copyInto(base, overlay, options);
    if (upper.length === 1) await top?.adoptBacking?.(base.source as NonNullable<Target['source']>);
    if (emptied) await top?.makeEmpty?.();
    await (top ?? overlay).close();
    if (upper.length > 1) await adoptBelow(upper[upper.length - 1], base, options);
    return { written };
  } catch (error) {
    await (top === null ? overlay.close() : top.abort()).catch(() => {});
    throw error;
  }
}

/** Options of all that is opened here. */
function common({ cache = 'writeback', drivers = allDrivers(), implicit, secrets }: CommitOptions) {
  return { cache, drivers, implicit, secrets };
}

interface Split {
  /** The image and what lies between it and the base; all are closed. */
  upper: OpenedImage[];
  /** The base, and what lies below it. */
  lower: OpenedImage[];
  emptied: boolean;
}

/** Looks at the chain. It is closed then, so that no layer is open twice while it is written to. */
async function split(options: CommitOptions): Promise<Split> {
  const { image, base, keep = false, signal } = options;
  throwIfAborted(signal);
  const node = nodeOf(image);
  // For writing, so that it is refused at once where another process uses it.
  const opened = await openImage(node, { ...common(options), writable: true });
  try {
    const layers = layersOf(opened);
    const index = base === undefined ? 1 : await findBelow(layers, base);
    if (index < 0) throw invalid(`Did not find '${base}' in the backing chain of '${opened.filename}'`, opened);
    if (layers.length === 1) throw invalid('Image does not have a backing file', opened);
    if (traceCommit.enabled) traceCommit.emit({ file: opened.filename, base: layers[index].filename, layers: index });
    return { upper: layers.slice(0, index), lower: layers.slice(index), emptied: base === undefined && !keep };
  } finally {
    await opened.close();
  }
}

async function copyInto(base: Target, overlay: OpenedImage, options: CommitOptions): Promise<number> {
  const { onProgress, rate: bytesPerSecond = 0, signal } = options;
  const source = aboveBase(overlay, base.size);
  let done = 0;
  try {
    await grow(base, overlay.chain.size);
  } catch (error) {
    await base.abort();
    throw jobFailed(error);
  }
  const sink = targetWritable(base, {
    window: PARALLEL,
    // What the base holds must go, also where it reads as zeros otherwise.
    skipZeros: false,
    unallocated: 'skip',
    onWritten: ({ length }) => {
      done += length;
      onProgress?.(done, source.size);
    },
  });
  const unit = base.sparseUnit ?? base.granularity;
  const stages = [
    load({ parallel: PARALLEL, unit: Math.max(unit, 64 * 1024), pooled: true }),
    ...(unit > 1 ? [align(unit, { keepUnallocated: true })] : []),
    ...(bytesPerSecond > 0 ? [rate(bytesPerSecond)] : []),
  ];
  await pipeline(extentStream(source), ...stages, sink, { signal }).catch((error) => {
    throw jobFailed(error);
  });
  return sink.bytesWritten;
}

/** A disk that is shorter than the overlay gets its length. */
async function grow(base: Target, size: number): Promise<void> {
  const wanted = alignUp(size, SECTOR);
  if (wanted <= base.size) return;
  if (base.truncate === undefined) throw new ImageError('unsupported', strerror('EOPNOTSUPP'), { code: 'EOPNOTSUPP' });
  await base.truncate(wanted);
}

/**
 * What the layers above the base say; `unallocated` where the base shows. A layer that is shorter than the top hides what the base
 * (of `baseSize` bytes so far) has behind its end.
 */
function aboveBase(overlay: OpenedImage, baseSize: number): Mapped {
  const { name, size } = overlay.chain;
  const lowest = layersOf(overlay).length - 1;
  const hides = ({ kind, depth, offset }: Extent) => kind === 'unallocated' && depth < lowest && offset < baseSize;
  return {
    name,
    size,
    async map(offset, length) {
      const extents = await overlay.chain.map(offset, length);
      return extents.map((each): Extent => (hides(each) ? { ...each, kind: 'zero' } : each));
    },
  };
}

/** A layer between the image and the base, which was changed beneath it. */
async function adoptBelow(layer: OpenedImage, base: Target, options: CommitOptions): Promise<void> {
  if (layer.source.checkBacking === undefined) return;
  const target = await openTarget(chainNode([layer]), common(options));
  try {
    await target.adoptBacking?.(base.source as NonNullable<Target['source']>);
  } finally {
    await target.close();
  }
}

/** As with qemu-img, which has opened the base by then: that the base is in use is told alone. */
function lockFailed(error: unknown): unknown {
  if (!(error instanceof ImageError) || error.kind !== 'locked') return error;
  return error.cause instanceof ImageError ? error.cause : error;
}

function jobFailed(error: unknown): unknown {
  if (!(error instanceof ImageError) || error.kind === 'aborted') return error;
  const { kind, message, file, format, operation, offset, code } = error;
  const reason = code === undefined ? message : strerror(code);
  return new ImageError(kind, `Block job failed: ${reason}`, { file, format, operation, offset, code, cause: error });
}

function invalid(message: string, { filename }: OpenedImage): ImageError {
  return new ImageError('invalid', message, { file: filename, operation: 'commit' });
}
