import test from 'ava';
import { segmentGroups } from '../../../lib/sinks/qcow2/segments.ts';

const CLUSTER = 4096;
const geometry = { clusterSize: CLUSTER, l2Coverage: 16 * CLUSTER };

/** The groups as lists of [start, end), in sectors. */
function groups(...writes: [offset: number, length: number][]): number[][][] {
  const all = writes.map(([offset, length]) => ({ offset: offset * 512, buffer: Buffer.alloc(length * 512, offset) }));
  return segmentGroups(all, geometry).map((group) => group.map(({ start, end }) => [start / 512, end / 512]));
}

test('writes to clusters of their own go together', (t) => {
  t.deepEqual(groups([0, 8], [8, 8], [30, 2], [32, 20]), [
    [
      [0, 8],
      [8, 16],
      [30, 32],
      [32, 52],
    ],
  ]);
});

test('writes that share a cluster do not', (t) => {
  t.deepEqual(groups([0, 1], [2, 1], [7, 10], [16, 8]), [[[0, 1]], [[2, 3]], [[7, 17]], [[16, 24]]]);
});

test('a write under two L2 tables is cut where the second begins, with its bytes', (t) => {
  t.deepEqual(groups([120, 16]), [[[120, 128]], [[128, 136]]]);
  const buffer = Buffer.from(Array.from({ length: 8192 }, (_, index) => index >> 8));
  const [[first], [second]] = segmentGroups([{ offset: 16 * CLUSTER - 256, buffer }], geometry);
  t.deepEqual([first.l1Index, first.bytes], [0, buffer.subarray(0, 256)]);
  t.deepEqual([second.l1Index, second.bytes], [1, buffer.subarray(256)]);
});
