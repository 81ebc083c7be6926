import test from 'ava';
import { Marks } from '../../../lib/sinks/qcow2/bitmaps/marks.ts';
import { Random } from '../../support/model.ts';

const UNIT = 512;
/** Units of one piece of the marks. */
const PIECE = 4096 * 8;

test('marks are the whole units of what was added, joined, up to the end of the disk', (t) => {
  const random = new Random(7);
  for (let run = 0; run < 30; run += 1) {
    const units = PIECE * 4 - 5;
    const size = units * UNIT - 100;
    const marks = new Marks(Math.log2(UNIT));
    const model = new Uint8Array(units);
    for (let count = random.below(12); count > 0; count -= 1) {
      const from = random.below(2) === 0 ? random.below(units) : PIECE * random.below(4);
      const length = random.pick([random.below(50), random.below(2 * PIECE), PIECE, 2 * PIECE]) * UNIT;
      const offset = from * UNIT + random.pick([0, 0, random.below(UNIT)]);
      if (length === 0) continue;
      marks.add(offset, Math.min(length, size - offset));
      model.fill(1, from, Math.ceil(Math.min(size, offset + length) / UNIT));
    }
    t.deepEqual([...marks.ranges(size)], rangesOf(model, size), `run ${run}`);
  }
});

function rangesOf(model: Uint8Array, size: number): { offset: number; length: number }[] {
  const ranges: { offset: number; length: number }[] = [];
  for (let at = model.indexOf(1); at >= 0; ) {
    const end = model.indexOf(0, at);
    const stop = end < 0 ? size : end * UNIT;
    ranges.push({ offset: at * UNIT, length: stop - at * UNIT });
    at = end < 0 ? -1 : model.indexOf(1, end);
  }
  return ranges;
}
