import { amend, amendingDriver } from '../../edits/amend.ts';
import { drivers } from '../../formats/index.ts';
import { openImage } from '../../sources/open.ts';
import { flag, type OptionTable, parseArguments, setting } from '../arguments.ts';
import {
  cacheMode,
  editedImage,
  HELP_OPTION,
  type ImageValues,
  imageDefaults,
  objectOption,
  PROGRESS_OPTIONS,
  type ProgressValues,
  progressDefaults,
  withProgress,
} from '../common.ts';
import type { Command, CommandContext } from '../context.ts';
import { CommandError, UsageError } from '../errors.ts';
import { CreateOptionList } from '../option-lists.ts';
import type { Output } from '../output.ts';
import { optionLines } from '../render/create-options.ts';

interface AmendValues extends ImageValues, ProgressValues {
  cache: string;
  options: CreateOptionList;
  force: boolean;
}

async function run(args: readonly string[], context: CommandContext): Promise<number> {
  const { output } = context;
  const values: AmendValues = {
    ...imageDefaults(),
    ...progressDefaults(),
    cache: 'writeback',
    options: new CreateOptionList(),
    force: false,
  };
  const names = parseArguments(optionTable(output), args, values, { name: 'amend' });
  if (!values.options.given) throw new UsageError('Must specify options (-o)');
  const secrets = await values.objects.load();
  const { format, force, options } = values;
  if (options.wantsHelp && format !== null) return printHelp(format, output);
  if (names.length !== 1) throw new CommandError('Expecting one image file name');
  const cache = cacheMode(values.cache, 'Invalid cache option');
  const image = await editedImage(names[0], format, values, output);
  if (options.wantsHelp) {
    const opened = await openImage(image, { drivers: drivers(), format, secrets });
    await opened.close();
    return printHelp(opened.driver.name, output);
  }
  await withProgress(context, values, (report) => {
    const onProgress = (part: number) => report(part, 1);
    return amend({ image, format, cache, force, secrets, options: options.values(), onProgress });
  });
  return 0;
}

function printHelp(format: string, output: Output): number {
  output.write(`Amend options for '${format}':\n${optionLines(amendingDriver(format).amendOptions)}`);
  return 0;
}

function optionTable(output: Output): OptionTable<AmendValues> {
  return [
    HELP_OPTION,
    objectOption(output),
    flag('imageOpts', { long: 'image-opts' }),
    flag('force', { long: 'force' }),
    setting('format', { short: 'f', value: 'fmt' }),
    setting('cache', { short: 't', value: 'cache' }),
    { short: 'o', value: 'options', apply: (values, text) => values.options.add(text) },
    ...PROGRESS_OPTIONS,
  ];
}

export const command: Command = {
  syntax:
    '[--object objectdef] [--image-opts] [-p] [--progress=style] [-q] [-f fmt] [-t cache] [--force] -o options filename',
  stoppable: false,
  run,
};
