import test from 'ava';
import { Histogram } from '../../lib/core/histogram.ts';

test('quantiles are at most 1.6 % above the values', (t) => {
  const histogram = new Histogram();
  for (let value = 1; value <= 100_000; value += 1) histogram.add(value);
  for (const share of [0.01, 0.5, 0.9, 0.99, 1]) {
    const exact = Math.ceil(share * 100_000);
    const found = histogram.quantile(share);
    t.true(found >= exact && found <= exact * 1.016, `${share}: ${found}`);
  }
  t.is(histogram.count, 100_000);
  t.is(histogram.min, 1);
  t.is(histogram.max, 100_000);
  t.is(histogram.mean, 50_000.5);
});

test('an empty histogram says 0 of everything', (t) => {
  const histogram = new Histogram();
  t.deepEqual([histogram.min, histogram.max, histogram.mean, histogram.quantile(0.5)], [0, 0, 0, 0]);
});
