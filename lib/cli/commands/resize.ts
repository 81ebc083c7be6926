import { ImageError } from '../../core/errors.ts';
import { resize, SHRINK_OPERATION } from '../../edits/resize.ts';
import { flag, type OptionTable, parseArguments, setting } from '../arguments.ts';
import { editedImage, HELP_OPTION, type ImageValues, imageDefaults, objectOption } from '../common.ts';
import type { Command, CommandContext } from '../context.ts';
import { CommandError, UsageError } from '../errors.ts';
import type { Output } from '../output.ts';
import { readSize } from '../sizes.ts';

interface ResizeValues extends ImageValues {
  preallocation: string;
  shrink: boolean;
  quiet: boolean;
}

const PREALLOCATIONS: readonly string[] = ['off', 'metadata', 'falloc', 'full'];

async function run(args: readonly string[], { output }: CommandContext): Promise<number> {
  const values: ResizeValues = {
    ...imageDefaults(),
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
  const change = parseChange(sizeText as string, output);
  const secrets = await values.objects.load();
  const { preallocation, shrink, format } = values;
  await resize({
    image: await editedImage(names[0], values.format, values, output),
    ...{ format, preallocation, shrink, secrets },
    ...change,
  }).catch((error) => {
    throw failure(error, output);
  });
  if (!values.quiet) output.write('Image resized.\n');
  return 0;
}

/** `+1G` and `-1G` are relative. */
function parseChange(text: string, output: Output): { size: number; relative: boolean } {
  const sign = text[0] === '+' || text[0] === '-' ? text[0] : '';
  const size = parseBytes(text.slice(sign.length), output);
  return { size: sign === '-' ? -Math.abs(size) : size, relative: sign !== '' };
}

function parseBytes(text: string, output: Output): number {
  const size = readSize(text, output);
  if (size === null) {
    throw new CommandError(
      "Parameter 'size' expects a non-negative number below 2^64\n" +
        'Optional suffix k, M, G, T, P or E means kilo-, mega-, giga-, tera-, peta-\n' +
        'and exabytes, respectively.',
    );
  }
  if (size >= 2n ** 64n) throw new CommandError(`Value '${text}' is out of range for parameter 'size'`);
  // As qemu-img, which takes it for a negative number, whatever its sign.
  return size >= 2n ** 63n ? Number.NEGATIVE_INFINITY : Number(size);
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
