import { ImageError } from '../../core/errors.ts';
import { type CreateImageOptions, createImage } from '../../formats/create.ts';
import { drivers } from '../../formats/index.ts';
import { flag, type OptionTable, parseArguments, setting } from '../arguments.ts';
import { HELP_OPTION, objectOption } from '../common.ts';
import type { Command, CommandContext } from '../context.ts';
import { CommandError, UsageError } from '../errors.ts';
import { ObjectList } from '../objects.ts';
import { CreateOptionList } from '../option-lists.ts';
import type { Output } from '../output.ts';
import { printCreateOptions } from '../render/create-options.ts';
import { parseSize } from '../sizes.ts';

interface CreateValues {
  format: string;
  backing: string | undefined;
  backingFormat: string | undefined;
  unsafe: boolean;
  createOptions: CreateOptionList;
  quiet: boolean;
  objects: ObjectList;
}

async function run(args: readonly string[], { output }: CommandContext): Promise<number> {
  const values: CreateValues = {
    format: 'raw',
    backing: undefined,
    backingFormat: undefined,
    unsafe: false,
    createOptions: new CreateOptionList(),
    quiet: false,
    objects: new ObjectList(),
  };
  const [filename, sizeText, ...rest] = parseArguments(optionTable(output), args, values, { name: 'create' });
  if (values.createOptions.wantsHelp) {
    await printCreateOptions(values.format, filename ?? null, output);
    return 0;
  }
  if (filename === undefined) throw new UsageError('Expecting image file name');
  const size = sizeText === undefined ? null : parseSize(sizeText, { what: 'image size' }, output);
  if (rest.length > 0) throw new UsageError(`Unexpected argument: ${rest[0]}`);
  const secrets = await values.objects.load();
  try {
    await create({ filename, size, secrets }, values, output);
  } catch (error) {
    if (error instanceof ImageError) throw new CommandError(`${filename}: ${messageOf(error, values)}`);
    throw error;
  }
  return 0;
}

/** As with qemu-img, a size beyond the format's limits is told alike for all formats that have no more to say. */
function messageOf({ code, operation, message }: ImageError, { format }: CreateValues): string {
  const isTooLarge = code === 'EFBIG' && operation === 'create';
  return isTooLarge ? `The image size is too large for file format '${format}'` : message;
}

async function create(
  place: Pick<CreateImageOptions, 'filename' | 'size' | 'secrets'>,
  values: CreateValues,
  output: Output,
): Promise<void> {
  const { format, backing, backingFormat, unsafe, quiet } = values;
  const options = values.createOptions.values();
  // Without a backing file the format alone is passed on, so that the driver can say what is wrong with it.
  if (backing === undefined && backingFormat !== undefined) {
    refuseBackingFormat(format);
    options.backing_fmt = backingFormat;
  }
  const target = await createImage({
    ...place,
    format,
    shareBacking: true,
    options,
    backing: backing === undefined ? undefined : { filename: backing, format: backingFormat ?? null, unsafe },
    onFormatting: (line) => {
      if (!quiet) output.write(`${line}\n`);
    },
  });
  await target.close();
}

/** `-F` is worded otherwise than `-o backing_fmt=`, which a format without backing files does not know. */
function refuseBackingFormat(format: string): void {
  const driver = drivers().find(({ name }) => name === format);
  if (driver?.create === undefined || driver.supportsBacking) return;
  throw new ImageError('unsupported', `Backing file format not supported for file format '${format}'`);
}

function optionTable(output: Output): OptionTable<CreateValues> {
  return [
    HELP_OPTION,
    objectOption(output),
    setting('format', { short: 'f', value: 'fmt' }),
    setting('backing', { short: 'b', value: 'backing_file' }),
    setting('backingFormat', { short: 'F', value: 'backing_fmt' }),
    flag('unsafe', { short: 'u' }),
    flag('quiet', { short: 'q' }),
    { short: 'o', value: 'options', apply: ({ createOptions }, text) => createOptions.add(text) },
  ];
}

export const command: Command = {
  syntax: '[--object objectdef] [-q] [-f fmt] [-b backing_file [-F backing_fmt]] [-u] [-o options] filename [size]',
  stoppable: false,
  run,
};
