import { ImageError } from '../../core/errors.ts';
import { measure } from '../../pipelines/measure.ts';
import type { SnapshotSelector } from '../../sources/source.ts';
import { type OptionTable, parseArguments, setting } from '../arguments.ts';
import { type ImageValues, imageNamed, imageOptions, isJson, outputOption, snapshotSelector } from '../common.ts';
import type { Command, CommandContext } from '../context.ts';
import { CommandError, HelpWanted } from '../errors.ts';
import { ObjectList } from '../objects.ts';
import { CreateOptionList } from '../option-lists.ts';
import type { Output } from '../output.ts';
import { renderJson } from '../render/json.ts';
import { parseSize } from '../sizes.ts';

interface MeasureValues extends ImageValues {
  output: string;
  outputFormat: string;
  createOptions: CreateOptionList;
  snapshot: SnapshotSelector | undefined;
  size: number | undefined;
}

async function run(args: readonly string[], { output, signal }: CommandContext): Promise<number> {
  const values: MeasureValues = {
    format: null,
    imageOpts: false,
    forceShare: false,
    objects: new ObjectList(),
    output: 'human',
    outputFormat: 'raw',
    createOptions: new CreateOptionList(),
    snapshot: undefined,
    size: undefined,
  };
  const names = parseArguments(optionTable(output), args, values, {
    name: 'measure',
    // The oracle leaves wrong options of this command to getopt, then prints its help and succeeds.
    onWrong(message) {
      output.writeError(`measure: ${message}\n`);
      throw new HelpWanted();
    },
  });
  const [filename] = names;
  checkOperands(names, values);
  const json = isJson(values.output);
  const secrets = await values.objects.load();
  const { outputFormat, snapshot, size, forceShare } = values;
  const result = await measure({
    ...(filename === undefined ? { size } : { image: imageNamed(filename, values.format, values) }),
    outputFormat,
    createOptions: values.createOptions.values(),
    snapshot,
    forceShare,
    secrets,
    signal,
  }).catch((error) => {
    throw explained(error, output);
  });
  const { required, fullyAllocated, bitmaps } = result;
  if (json) output.write(`${renderJson({ required, 'fully-allocated': fullyAllocated, bitmaps })}\n`);
  else {
    output.write(`required size: ${required}\nfully allocated size: ${fullyAllocated}\n`);
    if (bitmaps !== undefined) output.write(`bitmaps size: ${bitmaps}\n`);
  }
  return 0;
}

/** What is wrong with an option comes in two messages. */
function explained(error: unknown, output: Output): unknown {
  if (!(error instanceof ImageError)) return error;
  const [first, second] = error.message.split('\nInvalid options for file format');
  if (second === undefined) return error;
  output.complain(first);
  return new CommandError(`Invalid options for file format${second}`);
}

function checkOperands(names: readonly string[], { imageOpts, format, snapshot, size }: MeasureValues): void {
  if (names.length > 1) throw new CommandError('At most one filename argument is allowed.');
  if (names.length === 0 && (imageOpts || format !== null || snapshot !== undefined)) {
    throw new CommandError('--image-opts, -f, and -l require a filename argument.');
  }
  if (names.length === 0 && size === undefined) {
    throw new CommandError('Either --size N or one filename must be specified.');
  }
  if (names.length === 1 && size !== undefined) {
    throw new CommandError('--size N cannot be used together with a filename.');
  }
}

function optionTable(output: Output): OptionTable<MeasureValues> {
  return [
    ...imageOptions<MeasureValues>(output),
    {
      ...outputOption<MeasureValues>(),
      apply(values, text) {
        isJson(text);
        values.output = text;
      },
    },
    setting('outputFormat', { short: 'O', value: 'output_fmt' }),
    { short: 'o', value: 'options', apply: ({ createOptions }, text) => createOptions.add(text) },
    setting('snapshot', { short: 'l', value: 'snapshot_param' }, (text) => snapshotSelector(text, output)),
    setting('size', { long: 'size', value: 'N' }, (text) => parseSize(text, { what: 'image size' }, output)),
  ];
}

export const command: Command = {
  syntax:
    '[--output=ofmt] [-O output_fmt] [-o options] [--size N | [--object objectdef] [--image-opts] [-f fmt] ' +
    '[-l snapshot_param] [-U] filename]',
  stoppable: true,
  run,
};
