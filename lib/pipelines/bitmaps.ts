import { ImageError } from '../core/errors.ts';
import { tracePoint } from '../core/trace.ts';
import type { Driver } from '../formats/driver.ts';
import type { BitmapEditor, Target } from '../sinks/target.ts';
import type { OpenedImage } from '../sources/open.ts';
import type { BitmapInfo, BitmapReader } from '../sources/source.ts';
import { checkedDriver } from './checks.ts';

const traceCopy = tracePoint('bitmap_copy');

/** What `--bitmaps` copies. */
export interface CopiedBitmaps {
  from: BitmapReader;
  infos: readonly BitmapInfo[];
}

export interface BitmapSettings {
  outputFormat: string;
  drivers: readonly Driver[] | undefined;
  /** `--skip-broken-bitmaps`: those that are inconsistent are left out, with a warning each. */
  skipBroken: boolean;
  onWarning?: (message: string) => void;
}

/** `--bitmaps`, before anything is made: the persistent bitmaps of the input's top layer, if both sides can have some. */
export async function bitmapsToCopy(image: OpenedImage, settings: BitmapSettings): Promise<CopiedBitmaps> {
  const { outputFormat, drivers, skipBroken, onWarning } = settings;
  const from = image.source.bitmaps;
  if (!from?.supported) throw new ImageError('unsupported', 'Source lacks bitmap support');
  if (!checkedDriver(outputFormat, drivers).supportsBitmaps) throw lacksSupport(outputFormat);
  const infos: BitmapInfo[] = [];
  for (const info of await from.list()) {
    if (!info.inconsistent) infos.push(info);
    else if (skipBroken) onWarning?.(`warning: Skipping inconsistent bitmap '${info.name}'`);
    else throw broken(info);
  }
  return { from, infos };
}

function lacksSupport(format: string): ImageError {
  return new ImageError('unsupported', `Format driver '${format}' does not support bitmaps`, { format });
}

function broken({ name }: BitmapInfo): ImageError {
  return new ImageError(
    'corrupt',
    `Cannot copy inconsistent bitmap '${name}'\n` +
      "Try --skip-broken-bitmaps, or use 'qemu-img bitmap --remove' to delete it",
  );
}

/** The same, before data are written: whether the output can take them. */
export async function checkBitmaps(target: Target, { from, infos }: CopiedBitmaps): Promise<BitmapEditor> {
  const editor = target.bitmaps;
  if (!editor?.supported) throw lacksSupport(target.format);
  const taken = new Set((await editor.list()).map(({ name }) => name));
  // The last one first: it is the one that qemu-img names.
  for (const { name } of infos.toReversed()) {
    if (taken.has(name)) {
      throw new ImageError('exists', `Failed to create bitmap ${name}: Bitmap already exists: ${name}`);
    }
    if (editor.size === from.size) continue;
    throw new ImageError(
      'invalid',
      `Failed to populate bitmap ${name}: Bitmaps are of different sizes (destination size is ${editor.size}, ` +
        `source size is ${from.size}) and can't be merged`,
    );
  }
  return editor;
}

/** Copies them, once the data are written. */
export async function copyBitmaps(editor: BitmapEditor, { from, infos }: CopiedBitmaps): Promise<void> {
  for (const { name, granularity, enabled } of infos) {
    if (traceCopy.enabled) traceCopy.emit({ bitmap: name, granularity });
    await editor.add(name, { granularity, disabled: !enabled, marks: from.ranges(name) }).catch((error) => {
      throw creationFailure(error, name);
    });
  }
}

function creationFailure(error: unknown, name: string): unknown {
  if (!(error instanceof ImageError)) return error;
  const { kind, message, file, format, offset, code } = error;
  return new ImageError(kind, `Failed to create bitmap ${name}: ${message}`, {
    file,
    format,
    offset,
    code,
    cause: error,
  });
}
