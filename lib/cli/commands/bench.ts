import { ImageError } from '../../core/errors.ts';
import { type BenchResult, bench } from '../../pipelines/bench.ts';
import type { CacheMode } from '../../storage/storage.ts';
import { flag, type OptionTable, parseArguments, setting } from '../arguments.ts';
import { cacheMode, type ImageValues, imageNamed, imageOptions, isJson, outputOption } from '../common.ts';
import type { Command, CommandContext } from '../context.ts';
import { CommandError, UsageError } from '../errors.ts';
import { ObjectList } from '../objects.ts';
import type { Output } from '../output.ts';
import { warnOfProbedRaw } from '../probing.ts';
import { renderJson } from '../render/json.ts';
import { parseSize } from '../sizes.ts';

interface BenchValues extends ImageValues {
  count: number;
  depth: number;
  bufferSize: number;
  step: number;
  offset: number;
  write: boolean;
  pattern: number;
  flushInterval: number;
  noDrain: boolean;
  cache: string;
  quiet: boolean;
  output: string;
}

const INT32_MAX = 2 ** 31 - 1;

async function run(args: readonly string[], { output, signal }: CommandContext): Promise<number> {
  const values: BenchValues = {
    ...{ format: null, imageOpts: false, forceShare: false, objects: new ObjectList() },
    ...{ count: 75_000, depth: 64, bufferSize: 4096, step: 0, offset: 0, write: false, pattern: 0 },
    ...{ flushInterval: 0, noDrain: false, cache: 'writeback', quiet: false, output: 'human' },
  };
  const names = parseArguments(optionTable(output), args, values, { name: 'bench' });
  if (names.length !== 1) throw new UsageError('Expecting one image file name');
  const json = isJson(values.output);
  check(values, names[0]);
  const secrets = await values.objects.load();
  const image = imageNamed(names[0], values.format, values);
  const cache = benchCache(values.cache);
  if (values.write) await warnOfProbedRaw(image, output);
  const { count, depth, bufferSize, step, offset, write, pattern, flushInterval, noDrain, forceShare } = values;
  const result = await bench({
    image,
    ...{ count, depth, bufferSize, step, offset, write, pattern, flushInterval, forceShare, secrets, cache, signal },
    drain: !noDrain,
    onStart: json ? undefined : () => announce(values, output),
  });
  output.write(json ? `${renderJson(toJson(result))}\n` : `Run completed in ${result.seconds.toFixed(3)} seconds.\n`);
  return 0;
}

/** qemu-img's words are shorter here than in its other commands. */
function benchCache(text: string): CacheMode {
  try {
    return cacheMode(text, '');
  } catch (error) {
    throw error instanceof CommandError ? new CommandError('Invalid cache mode') : error;
  }
}

function check({ write, flushInterval, depth, forceShare }: BenchValues, filename: string): void {
  if (flushInterval > 0 && !write) throw new CommandError('--flush-interval is only available in write tests');
  if (flushInterval > 0 && flushInterval < depth) throw new CommandError("Flush interval can't be smaller than depth");
  if (write && forceShare) {
    throw new CommandError(`Could not open '${filename}': force-share=on can only be used with read-only images`);
  }
}

function announce(values: BenchValues, output: Output): void {
  const { count, write, bufferSize, depth, offset, step, flushInterval } = values;
  output.write(
    `Sending ${count} ${write ? 'write' : 'read'} requests, ${bufferSize} bytes each, ${depth} in parallel ` +
      `(starting at offset ${offset}, step size ${step || bufferSize})\n`,
  );
  if (flushInterval > 0) output.write(`Sending flush every ${flushInterval} requests\n`);
}

function toJson({ requests, bytes, seconds, latency }: BenchResult) {
  const rate = (amount: number) => (seconds > 0 ? Math.round(amount / seconds) : 0);
  return {
    requests,
    bytes,
    seconds,
    'requests-per-second': rate(requests),
    'bytes-per-second': rate(bytes),
    'latency-seconds': { ...latency },
  };
}

/** A whole number in the words that qemu-img has for each. */
function count(what: string, { min = 0, max = INT32_MAX } = {}): (text: string) => number {
  return (text) => {
    const value = /^\s*\+?(0x[0-9a-f]+|\d+)$/i.test(text) ? Number(text) : Number.NaN;
    if (value >= min && value <= max) return value;
    throw new CommandError(`Invalid ${what} specified`);
  };
}

function aio(text: string): boolean {
  if (text === 'threads') return false;
  if (text !== 'native' && text !== 'io_uring') throw new CommandError(`Invalid aio option: ${text}`);
  throw new ImageError('unsupported', `aio=${text} is not to be had here: requests run in a pool of threads`);
}

function optionTable(output: Output): OptionTable<BenchValues> {
  const size = (what: string, max?: number) => (text: string) => parseSize(text, { what, max }, output);
  return [
    ...imageOptions<BenchValues>(output),
    outputOption(),
    setting('count', { short: 'c', value: 'count' }, count('request count')),
    setting('depth', { short: 'd', value: 'depth' }, count('queue depth', { min: 1 })),
    setting('bufferSize', { short: 's', value: 'buffer_size' }, size('buffer size', INT32_MAX)),
    setting('step', { short: 'S', value: 'step_size' }, size('step_size', INT32_MAX)),
    setting('offset', { short: 'o', value: 'offset' }, size('offset')),
    setting('pattern', { long: 'pattern', value: 'pattern' }, count('pattern byte', { max: 255 })),
    setting('flushInterval', { long: 'flush-interval', value: 'flush_interval' }, count('flush interval')),
    setting('cache', { short: 't', value: 'cache' }),
    { short: 'i', value: 'aio', apply: (_, text) => void aio(text) },
    { short: 'n', apply: () => void aio('native') },
    flag('noDrain', { long: 'no-drain' }),
    flag('write', { short: 'w' }),
    flag('quiet', { short: 'q' }),
  ];
}

export const command: Command = {
  syntax:
    '[-c count] [-d depth] [-f fmt] [--flush-interval=flush_interval] [-i aio] [-n] [--no-drain] [-o offset] ' +
    '[--output=ofmt] [--pattern=pattern] [-q] [-s buffer_size] [-S step_size] [-t cache] [-w] [-U] filename',
  stoppable: true,
  run,
};
