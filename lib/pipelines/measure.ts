import { ImageError } from '../core/errors.ts';
import { type AnyOptionValues, type OptionSchema, parseOptions } from '../core/options.ts';
import { throwIfAborted } from '../core/streams.ts';
import { createOptionsFor } from '../formats/create.ts';
import type { Driver, Measurement, MeasureRequest } from '../formats/driver.ts';
import type { ExtentPlan } from '../sinks/target.ts';
import { type Mapped, walkExtents } from '../sources/extents.ts';
import { parseFilename } from '../sources/filename.ts';
import type { SnapshotSelector } from '../sources/source.ts';
import { creatingDriver } from './checks.ts';
import { openInput } from './input.ts';
import { concatenate } from './mapped.ts';
import type { ImageReference, VerbOptions } from './reference.ts';
import { asReported } from './reported.ts';

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

/**
 * How large a file the image would become: `qemu-img measure`. Reads maps, no data.
 * Rejects with an ImageError.
 */
export async function measure(options: MeasureOptions): Promise<MeasureResult> {
  const { image: reference, size, secrets } = options;
  if ((reference === undefined) === (size === undefined)) {
    throw new ImageError('invalid', 'Either --size N or one filename must be specified.');
  }
  const driver = creatingDriver(options.outputFormat ?? 'raw', options.drivers);
  if (driver.measure === undefined) {
    throw new ImageError('unsupported', `Block driver '${driver.name}' does not support size measurement`);
  }
  const values = parsed(driver, options);
  if (reference === undefined) return answer(driver, values, { size: size as number, plan: null, secrets });
  const image = await openInput(reference, options);
  try {
    const disk = concatenate([image.chain]);
    const description = await image.source.describe();
    return await answer(driver, values, { size: disk.size, plan: planOf(disk, options.signal), description, secrets });
  } finally {
    await image.close();
  }
}

function parsed(driver: Driver, { createOptions = {} }: MeasureOptions): AnyOptionValues {
  try {
    return parseOptions<OptionSchema>(createOptionsFor(driver, parseFilename('measured')), createOptions);
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    const text = `${error.message}\nInvalid options for file format '${driver.name}'`;
    throw new ImageError(error.kind, text, { format: driver.name, operation: 'measure', cause: error });
  }
}

async function answer(
  driver: Driver,
  values: AnyOptionValues,
  disk: Pick<MeasureRequest, 'size' | 'plan' | 'description' | 'secrets'>,
): Promise<Measurement> {
  const { size: _size, backing_file: backing, backing_fmt: _format, ...options } = values;
  const measurement = await driver.measure?.({ ...disk, options, hasBacking: backing !== undefined });
  return measurement as Measurement;
}

function planOf(disk: Mapped, signal: AbortSignal | undefined): ExtentPlan {
  return async function* plan() {
    for await (const { extents } of walkExtents(disk)) {
      throwIfAborted(signal);
      yield extents.map(asReported);
    }
  };
}
