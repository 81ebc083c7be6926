import { type MapEntry, map } from '../../pipelines/map.ts';
import { type OptionTable, parseArguments, setting } from '../arguments.ts';
import { type ImageValues, imageNamed, imageOptions, isJson, outputOption } from '../common.ts';
import type { Command, CommandContext } from '../context.ts';
import { CommandError, UsageError } from '../errors.ts';
import { ObjectList } from '../objects.ts';
import type { Output } from '../output.ts';
import { mapEntryToJson, mapHeader, mapRow } from '../render/map.ts';
import { parseSize } from '../sizes.ts';

interface MapValues extends ImageValues {
  output: string;
  startOffset: number;
  maxLength: number | undefined;
}

async function run(args: readonly string[], { output, signal }: CommandContext): Promise<number> {
  const values: MapValues = {
    format: null,
    imageOpts: false,
    forceShare: false,
    objects: new ObjectList(),
    output: 'human',
    startOffset: 0,
    maxLength: undefined,
  };
  const names = parseArguments(optionTable(output), args, values, { name: 'map' });
  if (names.length !== 1) throw new UsageError('Expecting one image file name');
  const json = isJson(values.output);
  const secrets = await values.objects.load();
  const { startOffset, maxLength, forceShare } = values;
  const image = imageNamed(names[0], values.format, values);
  const entries = map({ image, startOffset, maxLength, forceShare, secrets, signal });
  await (json ? printJson(entries, startOffset, output) : printTable(entries, output));
  return 0;
}

function optionTable(output: Output): OptionTable<MapValues> {
  return [
    ...imageOptions<MapValues>(output, true),
    outputOption(),
    setting('startOffset', { short: 's', long: 'start-offset', value: 'offset' }, (text) =>
      parseSize(text, { what: 'start offset' }, output),
    ),
    setting('maxLength', { short: 'l', long: 'max-length', value: 'len' }, (text) =>
      parseSize(text, { what: 'max length' }, output),
    ),
  ];
}

async function printTable(entries: AsyncIterable<MapEntry>, output: Output): Promise<void> {
  let started = false;
  for await (const entry of entries) {
    if (!started) output.write(mapHeader());
    started = true;
    if (!entry.data || entry.zero) continue;
    if (entry.offset === undefined) {
      throw new CommandError('File contains external, encrypted or compressed clusters.');
    }
    output.write(mapRow(entry));
  }
  if (!started) output.write(mapHeader());
}

async function printJson(entries: AsyncIterable<MapEntry>, start: number, output: Output): Promise<void> {
  let separator = '[';
  for await (const entry of entries) {
    output.write(separator + mapEntryToJson(entry));
    separator = ',\n';
  }
  // An empty range is one entry without length.
  if (separator === '[') {
    output.write(`[${mapEntryToJson({ start, length: 0, depth: 0, present: false, zero: false, data: false })}`);
  }
  output.write(']\n');
}

export const command: Command = {
  syntax:
    '[--object objectdef] [--image-opts] [-f fmt] [--start-offset=offset] [--max-length=len] [--output=ofmt] [-U] filename',
  stoppable: true,
  run,
};
