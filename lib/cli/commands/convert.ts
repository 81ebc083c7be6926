import { convert } from '../../pipelines/convert.ts';
import type { ImageReference } from '../../pipelines/reference.ts';
import type { SnapshotSelector } from '../../sources/source.ts';
import { flag, type OptionTable, parseArguments, setting } from '../arguments.ts';
import {
  cacheMode,
  describedImage,
  type ImageValues,
  imageNamed,
  imageOptions,
  PROGRESS_OPTIONS,
  type ProgressValues,
  progressSettings,
  snapshotSelector,
} from '../common.ts';
import type { Command, CommandContext } from '../context.ts';
import { CommandError, Done } from '../errors.ts';
import { ObjectList } from '../objects.ts';
import { CreateOptionList } from '../option-lists.ts';
import type { Output } from '../output.ts';
import { printCreateOptions } from '../render/create-options.ts';
import { parseSize } from '../sizes.ts';

interface ConvertValues extends ImageValues, ProgressValues {
  outputFormat: string | null;
  targetImageOpts: boolean;
  targetIsZero: boolean;
  skipCreate: boolean;
  compress: boolean;
  backing: string | undefined;
  backingFormat: string | undefined;
  createOptions: CreateOptionList;
  cache: string;
  sourceCache: string;
  snapshot: SnapshotSelector | undefined;
  sparseSize: number | undefined;
  parallel: number | undefined;
  rate: number | undefined;
  outOfOrder: boolean;
  copyOffload: boolean;
  salvage: boolean;
  bitmaps: boolean;
  skipBrokenBitmaps: boolean;
}

const MAX_PARALLEL = 16;
const SECTOR = 512;
const MAX_SPARSE_SIZE = 16 * 1024 * 1024;

async function run(args: readonly string[], context: CommandContext): Promise<number> {
  const { output, signal } = context;
  const values = defaults();
  const names = parseArguments(optionTable(output), args, values, { name: 'convert' });
  checkCombinations(values);
  const target = names.pop();
  if (values.createOptions.wantsHelp) {
    await printCreateOptions(values.outputFormat ?? 'raw', names.length > 0 ? (target ?? null) : null, output);
    throw new Done();
  }
  if (target === undefined || names.length === 0) throw new CommandError('Must specify image file name');
  const secrets = await values.objects.load();
  const sourceCache = cacheMode(values.sourceCache, 'Invalid source cache option');
  const cache = cacheMode(values.cache, 'Invalid cache option');
  const inputs = names.map((name) => imageNamed(name, values.format, values));
  const toStdout = target === '-' && !values.targetImageOpts;
  const progress = context.startProgress(progressSettings(values, toStdout));
  try {
    await convert({
      ...settings(values),
      inputs,
      output: targetNamed(target, values),
      secrets,
      sourceCache,
      cache,
      signal,
      onProgress: progress.update.bind(progress),
      onWarning: (message) => output.complain(message),
    });
    progress.complete();
    return 0;
  } finally {
    progress.end();
  }
}

function defaults(): ConvertValues {
  return {
    format: null,
    imageOpts: false,
    forceShare: false,
    objects: new ObjectList(),
    progress: 'none',
    quiet: false,
    outputFormat: null,
    targetImageOpts: false,
    targetIsZero: false,
    skipCreate: false,
    compress: false,
    backing: undefined,
    backingFormat: undefined,
    createOptions: new CreateOptionList(),
    cache: 'unsafe',
    sourceCache: 'writeback',
    snapshot: undefined,
    sparseSize: undefined,
    parallel: undefined,
    rate: undefined,
    outOfOrder: false,
    copyOffload: false,
    salvage: false,
    bitmaps: false,
    skipBrokenBitmaps: false,
  };
}

/** Combinations that make no sense, in the oracle's order. */
function checkCombinations(values: ConvertValues): void {
  const { skipCreate, copyOffload } = values;
  if (!values.bitmaps && values.skipBrokenBitmaps) {
    throw new CommandError('Use of --skip-broken-bitmaps requires --bitmaps');
  }
  if (values.targetImageOpts && !skipCreate) throw new CommandError('--target-image-opts requires use of -n flag');
  if (skipCreate && values.createOptions.given) {
    throw new CommandError('-o has no effect when skipping image creation');
  }
  if (copyOffload && values.compress) throw new CommandError('Cannot enable copy offloading when -c is used');
  if (copyOffload && values.sparseSize !== undefined) {
    throw new CommandError('Cannot enable copy offloading when -S is used');
  }
  if (copyOffload && values.salvage) throw new CommandError('Cannot use copy offloading in salvaging mode');
  if (values.targetIsZero && !skipCreate) throw new CommandError('--target-is-zero requires use of -n flag');
}

/** What the options say about the copy itself. */
function settings(values: ConvertValues) {
  const { compress, targetIsZero, snapshot, sparseSize, parallel, outOfOrder, copyOffload, rate } = values;
  const { salvage, bitmaps, skipBrokenBitmaps, forceShare, backing, backingFormat } = values;
  const createOptions = values.createOptions.values();
  // As with `create`, the format alone is passed on, so that the driver can say what is wrong with it.
  if (backing === undefined && backingFormat !== undefined) createOptions.backing_fmt = backingFormat;
  return {
    create: !values.skipCreate,
    outputFormat: values.outputFormat ?? (values.targetImageOpts ? undefined : 'raw'),
    createOptions,
    backing: backing === undefined ? undefined : { filename: backing, format: backingFormat ?? null },
    ...{ compress, targetIsZero, snapshot, sparseSize, parallel, outOfOrder, copyOffload, rate },
    ...{ salvage, bitmaps, skipBrokenBitmaps, forceShare },
  };
}

function targetNamed(filename: string, { targetImageOpts, outputFormat }: ConvertValues): ImageReference {
  if (!targetImageOpts) return { filename };
  if (outputFormat !== null) throw new CommandError('--image-opts and --format are mutually exclusive');
  return describedImage(filename);
}

function optionTable(output: Output): OptionTable<ConvertValues> {
  return [
    ...imageOptions<ConvertValues>(output),
    ...PROGRESS_OPTIONS,
    ...flagOptions(),
    ...numberOptions(output),
    setting('outputFormat', { short: 'O', value: 'output_fmt' }),
    setting('backing', { short: 'B', value: 'backing_file' }),
    setting('backingFormat', { short: 'F', value: 'backing_fmt' }),
    { short: 'o', value: 'options', apply: ({ createOptions }, text) => createOptions.add(text) },
    setting('cache', { short: 't', value: 'cache' }),
    setting('sourceCache', { short: 'T', value: 'src_cache' }),
    setting('snapshot', { short: 'l', value: 'snapshot_param' }, (text) => snapshotSelector(text, output)),
  ];
}

function flagOptions(): OptionTable<ConvertValues> {
  return [
    flag('targetImageOpts', { long: 'target-image-opts' }),
    flag('targetIsZero', { long: 'target-is-zero' }),
    flag('salvage', { long: 'salvage' }),
    flag('bitmaps', { long: 'bitmaps' }),
    flag('skipBrokenBitmaps', { long: 'skip-broken-bitmaps' }),
    flag('copyOffload', { short: 'C' }),
    flag('compress', { short: 'c' }),
    flag('skipCreate', { short: 'n' }),
    flag('outOfOrder', { short: 'W' }),
  ];
}

function numberOptions(output: Output): OptionTable<ConvertValues> {
  return [
    setting('sparseSize', { short: 'S', value: 'sparse_size' }, (text) => sparseSize(text, output)),
    setting('parallel', { short: 'm', value: 'num_coroutines' }, (text) => parallel(text)),
    setting('rate', { short: 'r', value: 'rate_limit' }, (text) => parseSize(text, { what: 'rate limit' }, output)),
  ];
}

function sparseSize(text: string, output: Output): number {
  const what = 'buffer size for sparse output';
  const size = parseSize(text, { what }, output);
  if (size % SECTOR !== 0 || size > MAX_SPARSE_SIZE) {
    throw new CommandError(
      `Invalid ${what} specified. Valid sizes are multiples of ${SECTOR} up to ${MAX_SPARSE_SIZE}. ` +
        'Select 0 to disable sparse detection (fully allocates output).',
    );
  }
  return size;
}

function parallel(text: string): number {
  const count = /^\s*\+?(?:0x[0-9a-f]+|\d+)$/i.test(text) ? Number(text) : 0;
  if (count < 1 || count > MAX_PARALLEL) {
    throw new CommandError(
      `Invalid number of coroutines. Allowed number of coroutines is between 1 and ${MAX_PARALLEL}`,
    );
  }
  return count;
}

export const command: Command = {
  syntax:
    '[--object objectdef] [--image-opts] [--target-image-opts] [--target-is-zero] [--bitmaps] ' +
    '[--skip-broken-bitmaps] [-U] [-C] [-c] [-p] [--progress=style] [-q] [-n] [-f fmt] [-t cache] [-T src_cache] ' +
    '[-O output_fmt] [-B backing_file [-F backing_fmt]] [-o options] [-l snapshot_param] [-S sparse_size] ' +
    '[-r rate_limit] [-m num_coroutines] [-W] [--salvage] filename [filename2 [...]] output_filename',
  stoppable: true,
  run,
};
