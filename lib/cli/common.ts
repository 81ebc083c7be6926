import { isatty } from 'node:tty';
import { ImageError } from '../core/errors.ts';
import type { ImageReference } from '../pipelines/reference.ts';
import { type NodeSpec, parseImageOpts } from '../sources/filename.ts';
import type { SnapshotSelector } from '../sources/source.ts';
import type { CacheMode } from '../storage/storage.ts';
import { flag, type OptionDeclaration, type OptionTable, setting } from './arguments.ts';
import type { CommandContext } from './context.ts';
import { CommandError, HelpWanted } from './errors.ts';
import { ObjectList } from './objects.ts';
import { parseOptionList, switchedOn } from './option-lists.ts';
import type { Output } from './output.ts';
import { warnOfProbedRaw } from './probing.ts';
import type { ProgressOptions, ProgressStyle } from './render/progress.ts';

/** Options that several commands share, and what belongs to them. */
export interface ImageValues {
  format: string | null;
  imageOpts: boolean;
  forceShare: boolean;
  objects: ObjectList;
}

/** What they are when nothing is said. A new list of objects each time: options add to it. */
export function imageDefaults(): ImageValues {
  return { format: null, imageOpts: false, forceShare: false, objects: new ObjectList() };
}

export const HELP_OPTION: OptionDeclaration<object> = {
  short: 'h',
  long: 'help',
  apply() {
    throw new HelpWanted();
  },
};

/** `-h`, `--object`, and for commands that read images `--image-opts`, `-U` and `-f`. */
export function imageOptions<V extends ImageValues>(output: Output, longFormat = false): OptionTable<V> {
  return [
    HELP_OPTION,
    objectOption(output),
    flag('imageOpts', { long: 'image-opts' }),
    flag('forceShare', { short: 'U', long: 'force-share' }),
    setting('format', { short: 'f', long: longFormat ? 'format' : undefined, value: 'fmt' }),
  ];
}

export function objectOption<V extends { objects: ObjectList }>(output: Output): OptionDeclaration<V> {
  return { long: 'object', value: 'objectdef', apply: ({ objects }, value) => objects.add(value, output) };
}

/** `--output=human|json`, checked by `outputFormat`. */
export function outputOption<V extends { output: string }>(): OptionDeclaration<V> {
  return setting('output', { long: 'output', value: 'ofmt' });
}

/** Whether JSON was asked for. */
export function isJson(output: string): boolean {
  if (output !== 'human' && output !== 'json') {
    throw new CommandError('--output must be used with human or json as argument.');
  }
  return output === 'json';
}

/** The image that the command line names; `--image-opts` forbids a format beside it. */
export function imageNamed(filename: string, format: string | null, values: ImageValues, exitCode = 1): ImageReference {
  if (!values.imageOpts) return { filename, format };
  if (format !== null) throw new CommandError('--image-opts and --format are mutually exclusive', exitCode);
  const shared = parseOptionList(filename).findLast(({ key }) => key === 'force-share');
  if (values.forceShare && shared !== undefined && shared.value !== null && shared.value !== 'on') {
    throw new CommandError('--force-share/-U conflicts with image options', exitCode);
  }
  return describedImage(filename, exitCode);
}

/** The same for the edits, which take a format beside it. What is not told to be raw, but seems so, is warned of. */
export async function editedImage(
  filename: string,
  format: string | null,
  values: ImageValues,
  output: Output,
): Promise<NodeSpec | string> {
  const image = imageNamed(filename, format, values);
  await warnOfProbedRaw(image, output);
  return 'file' in image ? image : image.filename;
}

/** The image that an option string describes. */
export function describedImage(text: string, exitCode = 1): NodeSpec {
  try {
    return parseImageOpts(text);
  } catch (error) {
    if (error instanceof ImageError) throw new CommandError(`Could not open '${text}': ${error.message}`, exitCode);
    throw error;
  }
}

const CACHE_MODES: readonly string[] = ['none', 'writeback', 'writethrough', 'directsync', 'unsafe'];

/** A cache mode of `-t`; `off` is an old name of `none`. */
export function cacheMode(text: string, message: string, exitCode = 1): CacheMode {
  const mode = text === 'off' ? 'none' : text;
  if (!CACHE_MODES.includes(mode)) throw new CommandError(`${message}: ${text}`, exitCode);
  return mode as CacheMode;
}

const SELECTOR_KEYS = { 'snapshot.id': 'id', 'snapshot.name': 'name' } as const;

/** `-l`: `snapshot.id=…,snapshot.name=…`, or one word that is either. */
export function snapshotSelector(text: string, output: Output): SnapshotSelector {
  if (!text.startsWith('snapshot.')) return { idOrName: text };
  const selector: SnapshotSelector = {};
  for (const element of parseOptionList(text)) {
    const { key, value } = element.value === null ? switchedOn(element.key, output) : element;
    if (!Object.hasOwn(SELECTOR_KEYS, key)) {
      output.complain(`Invalid parameter '${key}'`);
      throw new CommandError(`Failed in parsing snapshot param '${text}'`);
    }
    selector[SELECTOR_KEYS[key as keyof typeof SELECTOR_KEYS]] = value as string;
  }
  return selector;
}

export interface ProgressValues {
  /** `auto` is `-p`. */
  progress: ProgressStyle | 'auto';
  quiet: boolean;
}

export function progressDefaults(): ProgressValues {
  return { progress: 'none', quiet: false };
}

const STYLES: readonly string[] = ['bar', 'plain', 'json', 'none'];

/** `--progress=bar|plain|json`, for all commands that take a while. */
export const PROGRESS_STYLE_OPTION: OptionDeclaration<ProgressValues> = {
  long: 'progress',
  value: 'style',
  apply(values, value) {
    if (!STYLES.includes(value)) {
      throw new CommandError(`Invalid progress style '${value}': must be one of bar, plain, json and none`);
    }
    values.progress = value as ProgressStyle;
  },
};

/** `-p`, `-q` and `--progress`. */
export const PROGRESS_OPTIONS: OptionTable<ProgressValues> = [
  {
    short: 'p',
    apply(values) {
      values.progress = 'auto';
    },
  },
  flag('quiet', { short: 'q' }),
  PROGRESS_STYLE_OPTION,
];

/** How progress is shown; `toStderr`: standard output carries the image. */
export function progressSettings({ progress, quiet }: ProgressValues, toStderr = false): ProgressOptions {
  if (quiet) return { style: 'none' };
  if (progress !== 'auto') return { style: progress, toStderr };
  return { style: isatty(toStderr ? 2 : 1) ? 'bar' : 'plain', toStderr };
}

/** Shows how far the work is, and at its end that it is done. */
export async function withProgress(
  context: CommandContext,
  values: ProgressValues,
  work: (onProgress: (done: number, total: number) => void) => Promise<unknown>,
): Promise<void> {
  const progress = context.startProgress(progressSettings(values));
  try {
    await work((done, total) => progress.update(done, total));
    progress.complete();
  } finally {
    progress.end();
  }
}
