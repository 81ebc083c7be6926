import test from 'ava';
import { CommandError } from '../../lib/cli/errors.ts';
import { Output } from '../../lib/cli/output.ts';
import { parseSize } from '../../lib/cli/sizes.ts';

class Recorder extends Output {
  readonly errors: string[] = [];
  override writeError(text: string): void {
    this.errors.push(text);
  }
}

const size = (text: string, output = new Recorder('prog')) => parseSize(text, { what: 'image size' }, output);

test('sizes are bytes, or multiples of powers of 1024', (t) => {
  t.is(size('0'), 0);
  t.is(size('512'), 512);
  t.is(size('1k'), 1024);
  t.is(size('1B'), 1);
  t.is(size('+3M'), 3 * 1024 ** 2);
  t.is(size(' 1.5G'), 1.5 * 1024 ** 3);
  t.is(size('1.'), 1);
  t.is(size('1.00001k'), 1024);
  t.is(size('7.9P'), 8894609264056730);
  t.is(size('0x1e'), 30);
  t.is(size('010'), 10);
});

test('a suffix after a hexadecimal number works, with a warning', (t) => {
  const output = new Recorder('prog');
  t.is(size('0x10k', output), 16384);
  t.deepEqual(output.errors, ['prog: warning: Using a multiplier suffix on hex numbers is deprecated: 0x10k\n']);
});

for (const text of ['', '-1', '1.5', '.5k', '1e3', '1kk', '1 k', '1k ', '0x', '0x1.8k', 'inf', '1KiB', '٣']) {
  test(`'${text}' is no size`, (t) => {
    const error = t.throws(() => size(text), { instanceOf: CommandError });
    t.regex(error.message, /^Invalid image size specified\. You may use k, M, G, T, P or E suffixes for\nprog: /);
  });
}

test('sizes out of range are told with the range', (t) => {
  t.throws(() => size('8E'), { message: 'Invalid image size specified. Must be between 0 and 9223372036854775807.' });
  const limits = { what: 'bs', min: 1, max: 10 };
  const message = 'Invalid bs specified. Must be between 1 and 10.';
  t.throws(() => parseSize('0', limits, new Recorder('p')), { message });
  t.throws(() => parseSize('11', limits, new Recorder('p')), { message });
});

test('a size that a number cannot hold exactly is refused', (t) => {
  t.is(size('9007199254740991'), Number.MAX_SAFE_INTEGER);
  t.throws(() => size('9007199254740993'), { instanceOf: CommandError });
});
