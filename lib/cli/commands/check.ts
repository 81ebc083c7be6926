import { ImageError } from '../../core/errors.ts';
import { CHECK_OPERATION, type CheckResult, check } from '../../edits/check.ts';
import { flag, type OptionTable, parseArguments, setting } from '../arguments.ts';
import {
  cacheMode,
  type ImageValues,
  imageDefaults,
  imageNamed,
  imageOptions,
  isJson,
  outputOption,
} from '../common.ts';
import type { Command, CommandContext } from '../context.ts';
import { CommandError, UsageError } from '../errors.ts';
import type { Output } from '../output.ts';
import { warnOfProbedRaw } from '../probing.ts';
import { checkToJson, renderCheck, renderRepairs } from '../render/check.ts';
import { renderJson } from '../render/json.ts';

interface CheckValues extends ImageValues {
  output: string;
  repair: 'leaks' | 'all' | null;
  sourceCache: string;
  quiet: boolean;
}

const Exit = { clean: 0, failed: 1, corrupt: 2, leaks: 3, unsupported: 63 } as const;

async function run(args: readonly string[], { output }: CommandContext): Promise<number> {
  const values: CheckValues = {
    ...imageDefaults(),
    output: 'human',
    repair: null,
    sourceCache: 'writeback',
    quiet: false,
  };
  const names = parseArguments(optionTable(output), args, values, { name: 'check' });
  if (names.length !== 1) throw new UsageError('Expecting one image file name');
  const [filename] = names;
  const json = isJson(values.output);
  const secrets = await values.objects.load();
  const cache = cacheMode(values.sourceCache, 'Invalid source cache option');
  const image = imageNamed(filename, values.format, values);
  const { repair, forceShare, quiet } = values;
  if (repair !== null) await warnOfProbedRaw(image, output);
  const result = await check({
    image: 'file' in image ? image : image.filename,
    format: values.format,
    ...{ repair, cache, forceShare, secrets },
    onFinding: (line, named) => (named === true ? output.complain(line) : output.writeError(`${line}\n`)),
    onRepaired: (report) => {
      if (!json && !quiet) output.write(renderRepairs(report));
    },
  }).catch((error) => {
    throw failure(error);
  });
  if (!quiet) output.write(json ? `${renderJson(checkToJson(filename, result))}\n` : renderCheck(result));
  return exitCode(result);
}

function optionTable(output: Output): OptionTable<CheckValues> {
  return [
    ...imageOptions<CheckValues>(output, true),
    outputOption(),
    setting('repair', { short: 'r', long: 'repair', value: 'repair' }, repairMode),
    setting('sourceCache', { short: 'T', value: 'src_cache' }),
    flag('quiet', { short: 'q' }),
  ];
}

function repairMode(text: string): 'leaks' | 'all' {
  if (text === 'leaks' || text === 'all') return text;
  throw new UsageError(`Unknown option value for -r (expecting 'leaks' or 'all'): ${text}`);
}

/** What could not be opened is told as it is; what could not be checked says so, with an exit code of its own. */
function failure(error: unknown): unknown {
  if (!(error instanceof ImageError) || error.operation !== CHECK_OPERATION) return error;
  if (error.kind === 'unsupported') return new CommandError(error.message, Exit.unsupported);
  return new CommandError(`Check failed: ${error.message}`, Exit.failed);
}

function exitCode({ checkErrors, corruptions, leaks }: CheckResult): number {
  if (checkErrors > 0) throw new CommandError('Check failed', Exit.failed);
  if (corruptions > 0) return Exit.corrupt;
  return leaks > 0 ? Exit.leaks : Exit.clean;
}

export const command: Command = {
  syntax:
    '[--object objectdef] [--image-opts] [-q] [-f fmt] [--output=ofmt] [-r [leaks | all]] [-T src_cache] [-U] filename',
  stoppable: false,
  run,
};
