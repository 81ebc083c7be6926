import { dd } from '../../pipelines/dd.ts';
import { type OptionTable, parseArguments, setting } from '../arguments.ts';
import {
  type ImageValues,
  imageNamed,
  imageOptions,
  PROGRESS_STYLE_OPTION,
  type ProgressValues,
  progressSettings,
} from '../common.ts';
import type { Command, CommandContext } from '../context.ts';
import { CommandError } from '../errors.ts';
import { ObjectList } from '../objects.ts';
import type { Output } from '../output.ts';
import { parseSize } from '../sizes.ts';

interface DdValues extends ImageValues, ProgressValues {
  outputFormat: string;
}

interface Operands {
  input?: string;
  output?: string;
  blockSize?: number;
  count?: number;
  skip?: number;
}

const MAX_BLOCK_SIZE = 2 ** 31 - 1;

async function run(args: readonly string[], context: CommandContext): Promise<number> {
  const { output, signal } = context;
  const values: DdValues = {
    format: null,
    imageOpts: false,
    forceShare: false,
    objects: new ObjectList(),
    progress: 'none',
    quiet: false,
    outputFormat: 'raw',
  };
  const table: OptionTable<DdValues> = [
    ...imageOptions<DdValues>(output),
    setting('outputFormat', { short: 'O', value: 'output_fmt' }),
    PROGRESS_STYLE_OPTION,
  ];
  const operands = parseOperands(parseArguments(table, args, values, { name: 'dd' }), output);
  const { input, output: target, blockSize, count, skip } = operands;
  if (input === undefined || target === undefined) throw new CommandError('Must specify both input and output files');
  const secrets = await values.objects.load();
  const progress = context.startProgress(progressSettings(values, target === '-'));
  try {
    await dd({
      input: imageNamed(input, values.format, values),
      output: { filename: target },
      outputFormat: values.outputFormat,
      blockSize,
      count,
      skip,
      forceShare: values.forceShare,
      secrets,
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

function parseOperands(words: readonly string[], output: Output): Operands {
  const operands: Operands = {};
  for (const word of words) {
    const equals = word.indexOf('=');
    const name = equals < 0 ? word : word.slice(0, equals);
    const value = word.slice(equals + 1);
    const apply = equals < 0 || !Object.hasOwn(OPERANDS, name) ? undefined : OPERANDS[name];
    if (apply === undefined) throw new CommandError(`unrecognized operand ${name}`);
    apply(operands, value, output);
  }
  return operands;
}

const OPERANDS: Readonly<Record<string, (operands: Operands, value: string, output: Output) => void>> = {
  bs(operands, value, output) {
    operands.blockSize = parseSize(value, { what: 'bs', min: 1, max: MAX_BLOCK_SIZE }, output);
  },
  count(operands, value, output) {
    operands.count = parseSize(value, { what: 'count' }, output);
  },
  skip(operands, value, output) {
    operands.skip = parseSize(value, { what: 'skip' }, output);
  },
  if(operands, value) {
    operands.input = value;
  },
  of(operands, value) {
    operands.output = value;
  },
};

export const command: Command = {
  syntax:
    '[--object objectdef] [--image-opts] [--progress=style] [-U] [-f fmt] [-O output_fmt] [bs=block_size] ' +
    '[count=blocks] [skip=blocks] if=input of=output',
  stoppable: true,
  run,
};
