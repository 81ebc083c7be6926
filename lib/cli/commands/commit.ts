import { commit } from '../../pipelines/commit.ts';
import { flag, type OptionTable, parseArguments, setting } from '../arguments.ts';
import {
  cacheMode,
  HELP_OPTION,
  type ImageValues,
  imageDefaults,
  imageNamed,
  objectOption,
  PROGRESS_OPTIONS,
  type ProgressValues,
  progressDefaults,
  withProgress,
} from '../common.ts';
import type { Command, CommandContext } from '../context.ts';
import { UsageError } from '../errors.ts';
import type { Output } from '../output.ts';
import { warnOfProbedRaw } from '../probing.ts';
import { parseSize } from '../sizes.ts';

interface CommitValues extends ImageValues, ProgressValues {
  cache: string;
  base: string | undefined;
  keep: boolean;
  rate: number | undefined;
}

async function run(args: readonly string[], context: CommandContext): Promise<number> {
  const { output, signal } = context;
  const values: CommitValues = {
    ...imageDefaults(),
    ...progressDefaults(),
    cache: 'writeback',
    base: undefined,
    keep: false,
    rate: undefined,
  };
  const names = parseArguments(optionTable(output), args, values, { name: 'commit' });
  if (names.length !== 1) throw new UsageError('Expecting one image file name');
  const secrets = await values.objects.load();
  const cache = cacheMode(values.cache, 'Invalid cache option');
  const image = imageNamed(names[0], values.format, values);
  const { base, keep, rate } = values;
  await warnOfProbedRaw(image, output);
  await withProgress(context, values, (onProgress) =>
    commit({ image, base, keep, rate, cache, secrets, signal, onProgress }),
  );
  if (!values.quiet) output.write('Image committed.\n');
  return 0;
}

function optionTable(output: Output): OptionTable<CommitValues> {
  return [
    HELP_OPTION,
    objectOption(output),
    flag('imageOpts', { long: 'image-opts' }),
    setting('format', { short: 'f', value: 'fmt' }),
    setting('cache', { short: 't', value: 'cache' }),
    setting('base', { short: 'b', value: 'base' }),
    flag('keep', { short: 'd' }),
    setting('rate', { short: 'r', value: 'rate_limit' }, (text) => parseSize(text, { what: 'rate limit' }, output)),
    ...PROGRESS_OPTIONS,
  ];
}

export const command: Command = {
  syntax:
    '[--object objectdef] [--image-opts] [-f fmt] [-t cache] [-b base] [-r rate_limit] [-d] [-p] [--progress=style] ' +
    '[-q] filename',
  stoppable: true,
  run,
};
