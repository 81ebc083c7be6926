import { ImageError } from '../../core/errors.ts';
import { resize, SHRINK_OPERATION } from '../../edits/resize.ts';
import { flag, type OptionTable, parseArguments, setting } from '../arguments.ts';
import { HELP_OPTION, type ImageValues, imageNamed, objectOption } from '../common.ts';
import type { Command, CommandContext } from '../context.ts';
import { CommandError, UsageError } from '../errors.ts';
import { ObjectList } from '../objects.ts';
import type { Output } from '../output.ts';

interface ResizeValues extends ImageValues {
  preallocation: string;
  shrink: boolean;
  quiet: boolean;
}

const PREALLOCATIONS: readonly string[] = ['off', 'metadata', 'falloc', 'full'];

async function run(args: readonly string[], { output }: CommandContext): Promise<number> {
  const values: ResizeValues = {
    format: null,
    imageOpts: false,
    forceShare: false,
    objects: new ObjectList(),
    preallocation: 'off',
    shrink: false,
    quiet: false,
  };
  // The size is the last word whatever it looks like: `-1G` is no option.
  const sizeText = args.at(-1);
  const wantsHelp = sizeText === '-h' || sizeText === '--help';
  if ((args.length < 2 || sizeText === undefined) && !wantsHelp) throw new UsageError('Not enough arguments');
  const names = parseArguments(optionTable(output), wantsHelp ? args : args.slice(0, -1), values, { name: 'resize' });
  if (names.length !== 1) throw new UsageError('Expecting image file name and size');
  const change = parseChange(sizeText as string);
  const secrets = await values.objects.load();
  const image = imageNamed(names[0], values.format, values);
  const { preallocation, shrink, format } = values;
  await resize({
    image: 'file' in image ? image : image.filename,
    ...{ format, preallocation, shrink, secrets },
    ...change,
  }).catch((error) => {
    throw failure(error, output);
  });
  if (!values.quiet) output.write('Image resized.\n');
  return 0;
}

/** `+1G` and `-1G` are relative. */
function parseChange(text: string): { size: number; relative: boolean } {
  const sign = text[0] === '+' || text[0] === '-' ? text[0] : '';
  const size = parseBytes(text.slice(sign.length));
  return { size: sign === '-' ? -size : size, relative: sign !== '' };
}

const SUFFIXES = 'BKMGTPE';

function parseBytes(text: string): number {
  const match = /^(\d+)(\.\d*)?([bkmgtpe]?)$/i.exec(text);
  if (match === null) {
    throw new CommandError(
      "Parameter 'size' expects a non-negative number below 2^64\n" +
        'Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n' +
        'and exabytes, respectively.',
    );
  }
  const [, whole, fraction = '', suffix] = match;
  const unit = 1024 ** SUFFIXES.indexOf((suffix || 'B').toUpperCase());
  const size = Number(whole) * unit + Math.floor(Number(`0${fraction.length > 1 ? fraction : ''}`) * unit + 0.5);
  if (size >= 2 ** 64) throw new CommandError(`Value '${text}' is out of range for parameter 'size'`);
  // As qemu-img, which takes it for a negative number.
  return size >= 2 ** 63 ? Number.NEGATIVE_INFINITY : size;
}

function failure(error: unknown, output: Output): unknown {
  if (!(error instanceof ImageError) || error.operation !== SHRINK_OPERATION) return error;
  output.complain(error.message);
  return new CommandError(
    "warning: Shrinking an image will delete all data beyond the shrunken image's end. " +
      'Before performing such an operation, make sure there is no important data there.',
  );
}

function optionTable(output: Output): OptionTable<ResizeValues> {
  return [
    HELP_OPTION,
    objectOption(output),
    flag('imageOpts', { long: 'image-opts' }),
    setting('format', { short: 'f', value: 'fmt' }),
    setting('preallocation', { long: 'preallocation', value: 'prealloc' }, (mode) => {
      if (PREALLOCATIONS.includes(mode)) return mode;
      throw new CommandError(`Invalid preallocation mode '${mode}'`);
    }),
    flag('shrink', { long: 'shrink' }),
    flag('quiet', { short: 'q' }),
  ];
}

export const command: Command = {
  syntax:
    '[--object objectdef] [--image-opts] [-f fmt] [--preallocation=prealloc] [-q] [--shrink] filename [+ | -]size',
  stoppable: false,
  run,
};
