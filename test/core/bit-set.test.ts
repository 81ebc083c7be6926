import test from 'ava';
import { BitSet } from '../../lib/core/bit-set.ts';
import { ImageError } from '../../lib/core/errors.ts';

test('a bit set knows what was put in, however far apart', (t) => {
  const set = new BitSet();
  const numbers = [0, 1, 7, 8, 32767, 32768, 2 ** 40, 2 ** 53 - 1, 5, 2 ** 40 + 1];
  for (const number of numbers) t.true(set.add(number), `${number}`);
  for (const number of numbers) t.false(set.add(number), `${number}`);
  t.is(set.size, numbers.length);
});

test('a bit set that would take too much memory is refused', (t) => {
  const set = new BitSet();
  const error = t.throws(
    () => {
      for (let number = 0; ; number += 2 ** 20) set.add(number);
    },
    { instanceOf: ImageError },
  );
  t.is(error?.kind, 'unsupported');
});
