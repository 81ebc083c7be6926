import test from 'ava';
import fc from 'fast-check';
import { ClusterRuns, countOf, firstOf } from '../../../../lib/sinks/qcow2/snapshots/runs.ts';

/** Far and near, short and longer than one number holds. */
const runs = fc.array(
  fc.record({
    first: fc.oneof(fc.nat(3000), fc.integer({ min: 2 ** 44 - 3000, max: 2 ** 44 - 1500 })),
    clusters: fc.oneof(fc.constant(1), fc.integer({ min: 1, max: 1000 })),
  }),
  { maxLength: 40 },
);

function listOf(list: ClusterRuns): number[] {
  return [...list.ascending()].flatMap((key) => Array.from({ length: countOf(key) }, (_, at) => firstOf(key) + at));
}

test('runs of clusters come back in ascending order, each cluster as often as it was added', (t) => {
  fc.assert(
    fc.property(runs, (added) => {
      const list = new ClusterRuns();
      const expected: number[] = [];
      for (const { first, clusters } of added) {
        list.add(first, clusters);
        for (let at = 0; at < clusters; at += 1) expected.push(first + at);
      }
      t.deepEqual(
        listOf(list).sort((a, b) => a - b),
        expected.sort((a, b) => a - b),
      );
      const firsts = [...list.ascending()].map(firstOf);
      t.deepEqual(
        firsts,
        firsts.toSorted((a, b) => a - b),
      );
    }),
  );
});

test('what goes on where the last run ended takes no further number, also after sorting', (t) => {
  const list = new ClusterRuns();
  for (let cluster = 100; cluster < 356; cluster += 1) list.add(cluster, 1);
  t.is(list.length, 1);
  list.add(356, 1);
  t.is(list.length, 2);
  list.add(7, 2);
  list.ascending();
  list.add(357, 3);
  t.is(list.length, 3);
  t.deepEqual(listOf(list), [7, 8, ...Array.from({ length: 260 }, (_, at) => 100 + at)]);
  list.clear();
  t.is(list.length, 0);
  t.deepEqual(listOf(list), []);
});

test('whether a cluster is in a run is told in any order of questions', (t) => {
  fc.assert(
    fc.property(fc.uniqueArray(fc.nat(2000)), fc.array(fc.nat(2100)), (clusters, questions) => {
      const list = new ClusterRuns();
      for (const cluster of clusters) list.add(cluster, 1);
      const set = new Set(clusters);
      for (const question of questions) t.is(list.has(question), set.has(question));
    }),
  );
});
