import test from 'ava';
import { formatSize } from '../../lib/core/units.ts';

test('sizes for people have three digits, ties go to the even one, as C prints them', (t) => {
  const cases: [bytes: number, text: string][] = [
    [0, '0 B'],
    [999, '999 B'],
    [1000, '0.977 KiB'],
    [397_824, '388 KiB'],
    [398_848, '390 KiB'],
    [1_022_976, '999 KiB'],
    [1_023_488, '1e+03 KiB'],
    [10_321_920, '9.84 MiB'],
    [1536 * 2 ** 30, '1.5 TiB'],
    [Number.MAX_SAFE_INTEGER, '8 PiB'],
  ];
  for (const [bytes, text] of cases) t.is(formatSize(bytes), text);
});
