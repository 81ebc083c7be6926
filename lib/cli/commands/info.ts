import { info } from '../../pipelines/info.ts';
import { flag, type OptionTable, parseArguments } from '../arguments.ts';
import { type ImageValues, imageNamed, imageOptions, isJson, outputOption } from '../common.ts';
import type { Command, CommandContext } from '../context.ts';
import { UsageError } from '../errors.ts';
import { ObjectList } from '../objects.ts';
import { infoToJson, renderInfo } from '../render/info.ts';
import { renderJson } from '../render/json.ts';

interface InfoValues extends ImageValues {
  output: string;
  backingChain: boolean;
}

async function run(args: readonly string[], { output }: CommandContext): Promise<number> {
  const values: InfoValues = {
    format: null,
    imageOpts: false,
    forceShare: false,
    objects: new ObjectList(),
    output: 'human',
    backingChain: false,
  };
  const table: OptionTable<InfoValues> = [
    ...imageOptions<InfoValues>(output, true),
    outputOption(),
    flag('backingChain', { long: 'backing-chain' }),
  ];
  const names = parseArguments(table, args, values, { name: 'info' });
  if (names.length !== 1) throw new UsageError('Expecting one image file name');
  const json = isJson(values.output);
  const secrets = await values.objects.load();
  const image = imageNamed(names[0], values.format, values);
  const infos = await info({ image, backingChain: values.backingChain, forceShare: values.forceShare, secrets });
  if (!json) output.write(infos.map(renderInfo).join('\n'));
  else {
    const list = infos.map(infoToJson);
    output.write(`${renderJson(values.backingChain ? list : list[0])}\n`);
  }
  return 0;
}

export const command: Command = {
  syntax: '[--object objectdef] [--image-opts] [-f fmt] [--output=ofmt] [--backing-chain] [-U] filename',
  stoppable: false,
  run,
};
