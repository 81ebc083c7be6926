import { type BitmapAction, bitmap } from '../../edits/bitmap.ts';
import { flag, type OptionDeclaration, type OptionTable, parseArguments, setting } from '../arguments.ts';
import { editedImage, HELP_OPTION, type ImageValues, imageDefaults, objectOption } from '../common.ts';
import type { Command, CommandContext } from '../context.ts';
import { CommandError } from '../errors.ts';
import type { Output } from '../output.ts';
import { parseSize } from '../sizes.ts';

interface BitmapValues extends ImageValues {
  actions: BitmapAction[];
  granularity: number | undefined;
  source: string | undefined;
  sourceFormat: string | undefined;
}

async function run(args: readonly string[], { output }: CommandContext): Promise<number> {
  const values: BitmapValues = {
    ...imageDefaults(),
    actions: [],
    granularity: undefined,
    source: undefined,
    sourceFormat: undefined,
  };
  const names = parseArguments(optionTable(output), args, values, { name: 'bitmap' });
  check(names, values);
  const secrets = await values.objects.load();
  const { actions, granularity, source, sourceFormat, format } = values;
  await bitmap({
    image: await editedImage(names[0], values.format, values, output),
    ...{ format, actions, secrets },
    bitmap: names[1],
    // As the oracle, for which 0 is no granularity.
    granularity: granularity || undefined,
    source: source === undefined ? undefined : { filename: source, format: sourceFormat },
  });
  return 0;
}

function check(names: readonly string[], { actions, granularity, source, sourceFormat }: BitmapValues): void {
  const has = (action: BitmapAction['action']) => actions.some((each) => each.action === action);
  if (actions.length === 0) {
    throw new CommandError('Need at least one of --add, --remove, --clear, --enable, --disable, or --merge');
  }
  if (granularity && !has('add')) throw new CommandError('granularity only supported with --add');
  if (sourceFormat !== undefined && source === undefined) throw new CommandError('-F only supported with -b');
  if (source !== undefined && !has('merge')) {
    throw new CommandError('Merge bitmap source file only supported with --merge');
  }
  if (names.length !== 2) throw new CommandError('Expecting filename and bitmap name');
}

function optionTable(output: Output): OptionTable<BitmapValues> {
  return [
    HELP_OPTION,
    objectOption(output),
    ...(['add', 'remove', 'clear', 'enable', 'disable'] as const).map(actionOption),
    { long: 'merge', value: 'source', apply: ({ actions }, source) => void actions.push({ action: 'merge', source }) },
    flag('imageOpts', { long: 'image-opts' }),
    setting('source', { short: 'b', value: 'source_file' }),
    setting('sourceFormat', { short: 'F', value: 'source_fmt' }),
    setting('format', { short: 'f', value: 'fmt' }),
    setting('granularity', { short: 'g', value: 'granularity' }, (text) =>
      parseSize(text, { what: 'granularity' }, output),
    ),
  ];
}

function actionOption(action: 'add' | 'remove' | 'clear' | 'enable' | 'disable'): OptionDeclaration<BitmapValues> {
  return { long: action, apply: ({ actions }) => void actions.push({ action }) };
}

export const command: Command = {
  syntax:
    '(--merge SOURCE | --add | --remove | --clear | --enable | --disable)... [-b source_file [-F source_fmt]] ' +
    '[-g granularity] [--object objectdef] [--image-opts | -f fmt] filename bitmap',
  stoppable: false,
  run,
};
