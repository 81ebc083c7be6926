import { type CompareResult, compare } from '../../pipelines/compare.ts';
import { flag, type OptionTable, parseArguments, setting } from '../arguments.ts';
import {
  cacheMode,
  type ImageValues,
  imageNamed,
  imageOptions,
  PROGRESS_OPTIONS,
  type ProgressValues,
  progressSettings,
} from '../common.ts';
import type { Command, CommandContext } from '../context.ts';
import { CommandError, UsageError } from '../errors.ts';
import { ObjectList } from '../objects.ts';
import type { Output } from '../output.ts';

interface CompareValues extends ImageValues, ProgressValues {
  secondFormat: string | null;
  sourceCache: string;
  strict: boolean;
}

const EXIT_SAME = 0;
const EXIT_DIFFERENT = 1;
// What went wrong, in the oracle's numbers: an image could not be opened, its map not be read, its data not be read.
const EXIT_CODES: Readonly<Record<string, number>> = { open: 2, map: 3, read: 4 };

async function run(args: readonly string[], context: CommandContext): Promise<number> {
  const { output, signal } = context;
  const values: CompareValues = {
    format: null,
    imageOpts: false,
    forceShare: false,
    objects: new ObjectList(EXIT_CODES.open),
    progress: 'none',
    quiet: false,
    secondFormat: null,
    sourceCache: 'writeback',
    strict: false,
  };
  const names = parseArguments(optionTable(output), args, values, { name: 'compare' });
  if (names.length !== 2) throw new UsageError('Expecting two image file names');
  const secrets = await values.objects.load();
  const sourceCache = cacheMode(values.sourceCache, 'Invalid source cache option', EXIT_CODES.open);
  const left = imageNamed(names[0], values.format, values, EXIT_CODES.open);
  const right = imageNamed(names[1], values.secondFormat, values, EXIT_CODES.open);
  const { strict, forceShare } = values;
  const progress = context.startProgress(progressSettings(values));
  try {
    const onProgress = progress.update.bind(progress);
    const result = await compare({ left, right, strict, sourceCache, forceShare, secrets, signal, onProgress });
    if (result.identical) progress.complete();
    if (!values.quiet) output.write(renderResult(result, strict));
    return result.identical ? EXIT_SAME : EXIT_DIFFERENT;
  } catch (error) {
    throw failure(error);
  } finally {
    progress.end();
  }
}

function optionTable(output: Output): OptionTable<CompareValues> {
  return [
    ...imageOptions<CompareValues>(output),
    setting('secondFormat', { short: 'F', value: 'fmt' }),
    setting('sourceCache', { short: 'T', value: 'src_cache' }),
    flag('strict', { short: 's' }),
    ...PROGRESS_OPTIONS,
  ];
}

function renderResult({ difference, leftSize, rightSize }: CompareResult, strict: boolean): string {
  // Told when the comparison leaves the common part, so not for a difference inside it.
  const common = Math.min(leftSize, rightSize);
  const beyond = leftSize !== rightSize && !strict && (difference === null || offsetOf(difference) >= common);
  const warning = beyond ? 'Warning: Image size mismatch!\n' : '';
  if (difference === null) return `${warning}Images are identical.\n`;
  switch (difference.kind) {
    case 'size':
      return 'Strict mode: Image size mismatch!\n';
    case 'allocation':
      return `Strict mode: Offset ${difference.offset} block status mismatch!\n`;
    case 'content':
      return `${warning}Content mismatch at offset ${difference.offset}!\n`;
  }
}

function offsetOf(difference: NonNullable<CompareResult['difference']>): number {
  return 'offset' in difference ? difference.offset : 0;
}

function failure(error: unknown): unknown {
  if (!(error instanceof Error) || !('phase' in error)) return error;
  const code = EXIT_CODES[error.phase as string];
  return code === undefined ? error : new CommandError(error.message, code);
}

export const command: Command = {
  syntax:
    '[--object objectdef] [--image-opts] [-f fmt] [-F fmt] [-T src_cache] [-p] [--progress=style] [-q] [-s] [-U] ' +
    'filename1 filename2',
  stoppable: true,
  run,
};
