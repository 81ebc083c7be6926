import { ImageError } from '../core/errors.ts';
import { tracePoint } from '../core/trace.ts';
import type { Secrets } from '../crypto/secrets.ts';
import type { Driver } from '../formats/driver.ts';
import { drivers as allDrivers } from '../formats/index.ts';
import { openTarget } from '../formats/open-target.ts';
import type { BitmapEditor, Target } from '../sinks/target.ts';
import type { NodeSpec } from '../sources/filename.ts';
import type { ImplicitPolicy } from '../sources/gate.ts';
import { type OpenedImage, openImage } from '../sources/open.ts';
import type { BitmapReader } from '../sources/source.ts';
import type { CacheMode } from '../storage/storage.ts';

/** One thing to do with the bitmap; `merge` adds the marks of the bitmap `source`. */
export type BitmapAction =
  | { action: 'add' | 'remove' | 'clear' | 'enable' | 'disable' }
  | { action: 'merge'; source: string };

export interface BitmapOptions {
  /** A filename, or a node. */
  image: NodeSpec | string;
  /** Driver name; null or absent: as the node says, else probed. */
  format?: string | null;
  /** Name of the bitmap. */
  bitmap: string;
  /** What to do, one after the other. */
  actions: readonly BitmapAction[];
  /** Of what is added: guest bytes of one bit, a power of two from 512 to 2 GiB. By default as the format has it. */
  granularity?: number;
  /** Another image, where `merge` finds its bitmaps. */
  source?: { filename: string; format?: string | null };
  /** Default `writeback`. */
  cache?: CacheMode;
  drivers?: readonly Driver[];
  /** Whether files that images refer to may be opened. */
  implicit?: ImplicitPolicy;
  /** What `key-secret` options of the images name. */
  secrets?: Secrets;
}

const traceBitmap = tracePoint('image_bitmap');

/**
 * Changes a persistent dirty bitmap: `qemu-img bitmap`. Rejects with an ImageError; what was done by actions before the
 * one that failed stays done.
 */
export async function bitmap(options: BitmapOptions): Promise<void> {
  const { image, format, cache, drivers, implicit, secrets } = options;
  if (options.actions.length === 0) throw new ImageError('invalid', 'There is nothing to be done with the bitmap');
  const target = await openTarget(image, { format, cache, drivers, implicit, secrets });
  let source: OpenedImage | null = null;
  try {
    source = await openSource(options);
    const from = source === null ? undefined : (source.source.bitmaps ?? NONE);
    for (const action of options.actions) await act(target, action, options, from);
  } catch (error) {
    await target.abort().catch(() => {});
    throw error;
  } finally {
    await source?.close();
  }
  await target.close();
}

/** Of an image whose format has no bitmaps. */
const NONE: BitmapReader = {
  supported: false,
  size: 0,
  list: async () => [],
  ranges(name) {
    throw notFound(name);
  },
};

function notFound(name: string): ImageError {
  return new ImageError('missing', `Dirty bitmap '${name}' not found`);
}

async function openSource({ source, drivers = allDrivers(), cache, implicit, secrets }: BitmapOptions) {
  if (source === undefined) return null;
  return openImage(source.filename, { drivers, cache, implicit, secrets, format: source.format, backing: false });
}

async function act(
  target: Target,
  each: BitmapAction,
  { bitmap: name, granularity }: BitmapOptions,
  from: BitmapReader | undefined,
): Promise<void> {
  try {
    const editor = editorOf(target, each, name);
    if (traceBitmap.enabled) traceBitmap.emit({ file: target.name, bitmap: name, action: each.action });
    if (each.action === 'merge') await editor.merge(name, each.source, from);
    else if (each.action === 'add') await editor.add(name, { granularity });
    else await editor[each.action](name);
  } catch (error) {
    throw failure(error, each, name);
  }
}

/** A format without bitmaps has none of that name. */
function editorOf(target: Target, { action }: BitmapAction, name: string): BitmapEditor {
  if (target.bitmaps !== undefined) return target.bitmaps;
  if (action !== 'add') throw notFound(name);
  throw new ImageError('unsupported', `Can't store persistent bitmaps to ${target.name}: Operation not supported`, {
    format: target.format,
  });
}

function failure(error: unknown, { action }: BitmapAction, name: string): unknown {
  if (!(error instanceof ImageError)) return error;
  const { kind, message, file, format, offset, code } = error;
  const text = `Operation ${action} on bitmap ${name} failed: ${message}`;
  return new ImageError(kind, text, { file, format, operation: 'bitmap', offset, code, cause: error });
}
