import test from 'ava';
import { flag, type OptionTable, parseArguments, setting } from '../../lib/cli/arguments.ts';
import { UsageError } from '../../lib/cli/errors.ts';

interface Values {
  compress: boolean;
  progress: boolean;
  format: string | null;
  output: string;
  object: string;
  options: string[];
}

const TABLE: OptionTable<Values> = [
  flag('compress', { short: 'c' }),
  flag('progress', { short: 'p' }),
  setting('format', { short: 'O', long: 'format', value: 'fmt' }),
  setting('output', { long: 'output', value: 'ofmt' }),
  setting('object', { long: 'object', value: 'def' }),
  { short: 'o', value: 'options', apply: ({ options }, text) => void options.push(text) },
];

function parse(...args: string[]) {
  const values: Values = { compress: false, progress: false, format: null, output: '', object: '', options: [] };
  const operands = parseArguments(TABLE, args, values, { name: 'convert' });
  return { ...values, operands };
}

function failure(...args: string[]): string | undefined {
  try {
    parse(...args);
  } catch (error) {
    if (error instanceof UsageError) return error.message;
    throw error;
  }
}

test('clusters of letters, joined values and operands in between are understood', (t) => {
  t.like(parse('a', '-cpO', 'qcow2', 'b'), { compress: true, progress: true, format: 'qcow2', operands: ['a', 'b'] });
  t.is(parse('-Oqcow2').format, 'qcow2');
  t.is(parse('-cOqcow2').format, 'qcow2');
});

test('a long option takes its value after = or as the next word', (t) => {
  t.is(parse('--output=json').output, 'json');
  t.is(parse('--output', 'json').output, 'json');
  t.is(parse('--output=').output, '');
  t.is(parse('--output=a=b').output, 'a=b');
});

test('a long option may be abbreviated as long as it stays unambiguous', (t) => {
  t.is(parse('--out', 'json').output, 'json');
  t.is(parse('--fo=raw').format, 'raw');
  t.is(failure('--o', 'json'), "unrecognized option '--o'");
});

test('an abbreviation is not mistaken for one where it is the value of another option', (t) => {
  t.deepEqual(parse('-o', '--out', 'json').options, ['--out']);
  t.deepEqual(parse('-o', '--out', 'json').operands, ['json']);
});

test('a value may look like an option, or be empty', (t) => {
  t.deepEqual(parse('-o', '-x').options, ['-x']);
  t.deepEqual(parse('-o', '--', '-c').options, ['--']);
  t.deepEqual(parse('-o', '').options, ['']);
});

test('-- ends the options, and - is an operand', (t) => {
  t.deepEqual(parse('-', '--', '-c').operands, ['-', '-c']);
  t.false(parse('--', '-c').compress);
});

test('-# begins the name of a member of standard input, not an option', (t) => {
  t.deepEqual(parse('-c', '-#disk.vmdk', 'out').operands, ['-#disk.vmdk', 'out']);
  t.deepEqual(parse('-o', '-#x', '-O', 'raw').options, ['-#x']);
  t.is(parse('-o', '-#x', '-O', 'raw').format, 'raw');
});

test('an option that repeats is applied each time, in order', (t) => {
  t.deepEqual(parse('-o', 'a', '-ob').options, ['a', 'b']);
  t.is(parse('-O', 'a', '--format', 'b').format, 'b');
});

test('what is wrong with an option is told as qemu-img tells it', (t) => {
  t.is(failure('--foo'), "unrecognized option '--foo'");
  t.is(failure('--foo=1'), "unrecognized option '--foo=1'");
  t.is(failure('-Z'), "unrecognized option '-Z'");
  t.is(failure('a', '-Zc'), "unrecognized option 'a'");
  t.is(failure('-Zc'), "unrecognized option 'convert'");
  t.is(failure('-cZ'), "unrecognized option '-cZ'");
  t.is(failure('-O'), "missing argument for option '-O'");
  t.is(failure('-cO'), "missing argument for option '-cO'");
  t.is(failure('--output'), "missing argument for option '--output'");
});

test('names that no option has, but every object, are unknown options', (t) => {
  t.is(failure('--constructor'), "unrecognized option '--constructor'");
  t.is(failure('--__proto__=x'), "unrecognized option '--__proto__=x'");
  t.is(failure('--letter c'), "unrecognized option '--letter c'");
});

test('parsing can stop at the first operand', (t) => {
  const values = { compress: false };
  const table: OptionTable<typeof values> = [flag('compress', { short: 'c' })];
  t.deepEqual(parseArguments(table, ['-c', 'info', '-x'], values, { name: 'p', stopAtOperand: true }), ['info', '-x']);
  t.true(values.compress);
});
