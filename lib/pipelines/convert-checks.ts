import { ImageError } from '../core/errors.ts';
import type { Driver } from '../formats/driver.ts';
import { creatingDriver, positiveInteger } from './checks.ts';
import type { ConvertOptions } from './convert.ts';

const MAX_PARALLEL = 16;
const MAX_SPARSE = 16 * 1024 * 1024;

/** Options that contradict each other, before anything is opened; worded and ordered as qemu-img does. */
export function checkOptions(options: ConvertOptions): void {
  const { create = true, parallel, sparseSize, copyOffload = false } = options;
  if (parallel !== undefined) {
    const text = 'Invalid number of coroutines. Allowed number of coroutines is between 1 and 16';
    positiveInteger(parallel, MAX_PARALLEL, text);
  }
  if (sparseSize !== undefined) checkSparseSize(sparseSize);
  if (options.inputs.length === 0) throw invalid('Must specify image file name');
  if (options.skipBrokenBitmaps && !options.bitmaps) {
    throw invalid('Use of --skip-broken-bitmaps requires --bitmaps');
  }
  if (options.targetIsZero && create) throw invalid('--target-is-zero requires use of -n flag');
  if (!create && Object.keys(options.createOptions ?? {}).length > 0) {
    throw invalid('-o has no effect when skipping image creation');
  }
  if (copyOffload) checkOffload(options);
  checkInputs(options);
}

function checkSparseSize(size: number): void {
  if (Number.isSafeInteger(size) && size >= 0 && size <= MAX_SPARSE && size % 512 === 0) return;
  throw invalid(
    'Invalid buffer size for sparse output specified. Valid sizes are multiples of 512 up to 16777216. ' +
      'Select 0 to disable sparse detection (fully allocates output).',
  );
}

function checkOffload({ sparseSize, compress, salvage }: ConvertOptions): void {
  if (sparseSize !== undefined) throw invalid('Cannot enable copy offloading when -S is used');
  if (compress) throw invalid('Cannot enable copy offloading when -c is used');
  if (salvage) throw invalid('Cannot use copy offloading in salvaging mode');
}

function checkInputs(options: ConvertOptions): void {
  if (options.targetIsZero && backingName(options) !== undefined) {
    throw invalid('Cannot use --target-is-zero when the destination image has a backing file');
  }
  if (options.inputs.length === 1) return;
  if (options.bitmaps) throw invalid('Copying bitmaps only possible with single source');
  if (options.snapshot !== undefined) throw invalid('No support for concatenating multiple snapshot');
  if (backingName(options) !== undefined) {
    throw invalid('Having a backing file for the target makes no sense when concatenating multiple input images');
  }
}

/** Checks what the output's format must be able to do; the driver of a new image. */
export function checkOutputFormat(options: ConvertOptions, format: string): Driver {
  const driver = creatingDriver(format, options.drivers);
  if (backingName(options) !== undefined) {
    if (!driver.supportsBacking) throw unsupported(`Backing file not supported for file format '${format}'`);
    if (backingFormat(options) === undefined) throw invalid('Use of backing file requires explicit backing format');
  }
  if (options.compress) {
    if (!driver.supportsCompression) throw unsupported('Compression not supported for this file format');
    if (encrypts(options)) throw unsupported('Compression and encryption not supported at the same time');
    if ((options.createOptions?.preallocation ?? 'off') !== 'off') {
      throw invalid('Compression and preallocation not supported at the same time');
    }
  }
  return driver;
}

/** Formats that encrypt name these two options alike. Whether their values make sense shows when the image is made. */
function encrypts({ createOptions = {} }: ConvertOptions): boolean {
  const { encryption = 'off', 'encrypt.format': format } = createOptions;
  return format !== undefined || !['off', 'no', 'false', 'n'].includes(encryption);
}

/** `-B`, or `-o backing_file=`; the first wins. */
export function backingName({ backing, createOptions }: ConvertOptions): string | undefined {
  return backing?.filename ?? createOptions?.backing_file;
}

export function backingFormat({ backing, createOptions }: ConvertOptions): string | undefined {
  return backing?.format ?? createOptions?.backing_fmt;
}

function invalid(message: string): ImageError {
  return new ImageError('invalid', message);
}

function unsupported(message: string): ImageError {
  return new ImageError('unsupported', message);
}
