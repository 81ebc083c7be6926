import { rebase } from '../../pipelines/rebase.ts';
import { flag, type OptionTable, parseArguments, setting } from '../arguments.ts';
import {
  cacheMode,
  type ImageValues,
  imageDefaults,
  imageNamed,
  imageOptions,
  PROGRESS_OPTIONS,
  type ProgressValues,
  progressDefaults,
  withProgress,
} from '../common.ts';
import type { Command, CommandContext } from '../context.ts';
import { UsageError } from '../errors.ts';
import type { Output } from '../output.ts';
import { warnOfProbedRaw } from '../probing.ts';

interface RebaseValues extends ImageValues, ProgressValues {
  cache: string;
  sourceCache: string;
  backing: string | undefined;
  backingFormat: string | null;
  unsafe: boolean;
}

async function run(args: readonly string[], context: CommandContext): Promise<number> {
  const { output, signal } = context;
  const values: RebaseValues = {
    ...imageDefaults(),
    ...progressDefaults(),
    cache: 'writeback',
    sourceCache: 'writeback',
    backing: undefined,
    backingFormat: null,
    unsafe: false,
  };
  const names = parseArguments(optionTable(output), args, values, { name: 'rebase' });
  if (names.length !== 1) throw new UsageError('Expecting one image file name');
  const { backing: filename = '', backingFormat: format, unsafe, forceShare } = values;
  if (!unsafe && values.backing === undefined) {
    throw new UsageError('Must specify backing file (-b) or use unsafe mode (-u)');
  }
  const secrets = await values.objects.load();
  const cache = cacheMode(values.cache, 'Invalid cache option');
  const sourceCache = cacheMode(values.sourceCache, 'Invalid source cache option');
  const image = imageNamed(names[0], values.format, values);
  // Without a name there will be none; the format must be one all the same.
  const backing = filename === '' && format === null ? null : { filename, format };
  await warnOfProbedRaw(image, output);
  await withProgress(context, values, (onProgress) =>
    rebase({ image, backing, unsafe, forceShare, secrets, cache, sourceCache, signal, onProgress }),
  );
  return 0;
}

function optionTable(output: Output): OptionTable<RebaseValues> {
  return [
    ...imageOptions<RebaseValues>(output),
    setting('cache', { short: 't', value: 'cache' }),
    setting('sourceCache', { short: 'T', value: 'src_cache' }),
    setting('backing', { short: 'b', value: 'backing_file' }),
    setting('backingFormat', { short: 'F', value: 'backing_fmt' }),
    flag('unsafe', { short: 'u' }),
    ...PROGRESS_OPTIONS,
  ];
}

export const command: Command = {
  syntax:
    '[--object objectdef] [--image-opts] [-U] [-q] [-f fmt] [-t cache] [-T src_cache] [-p] [--progress=style] [-u] ' +
    '-b backing_file [-F backing_fmt] filename',
  stoppable: true,
  run,
};
