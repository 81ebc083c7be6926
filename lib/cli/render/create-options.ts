import { ImageError } from '../../core/errors.ts';
import type { OptionSchema, OptionSpec } from '../../core/options.ts';
import type { Driver } from '../../formats/driver.ts';
import { drivers } from '../../formats/index.ts';
import { hasProtocol } from '../../sources/filename.ts';
import { fileCreateOptions } from '../../storage/index.ts';
import type { Output } from '../output.ts';

const TYPE_NAMES: Readonly<Record<OptionSpec['type'], string>> = {
  size: 'size',
  number: 'num',
  bool: 'bool (on/off)',
  string: 'str',
  choice: 'str',
};
const NAME_WIDTH = 22;

/**
 * `-o help`: the options of a format, and those of the place that `filename` is in if there is one.
 * Throws an ImageError for a format that is unknown or makes no images.
 */
export async function printCreateOptions(format: string, filename: string | null, output: Output): Promise<void> {
  const own = creatingDriver(format).createOptions ?? {};
  if (filename === null) {
    output.write(`Supported ${format} options:\n${optionLines(own)}`);
    output.write(
      '\nThe protocol level may support further options.\nSpecify the target filename to include those options.\n',
    );
    return;
  }
  const isFile = !hasProtocol(filename) || filename.startsWith('file:');
  output.write(`Supported options:\n${optionLines({ ...(isFile ? fileCreateOptions : {}), ...own })}`);
}

function creatingDriver(name: string): Driver {
  const driver = drivers().find((each) => each.name === name);
  if (driver === undefined) throw new ImageError('invalid', `Unknown file format '${name}'`);
  if (driver.create === undefined) {
    throw new ImageError('unsupported', `Format driver '${name}' does not support image creation`, { format: name });
  }
  return driver;
}

/** One line an option, as `-o help` prints them. */
export function optionLines(schema: OptionSchema): string {
  const names = Object.keys(schema).sort();
  return names
    .map((name) => `  ${`${name}=<${TYPE_NAMES[schema[name].type]}>`.padEnd(NAME_WIDTH)} - ${schema[name].help}\n`)
    .join('');
}
