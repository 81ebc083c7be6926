import test from 'ava';
import fc from 'fast-check';
import { MetadataClusters } from '../../../lib/sinks/qcow2/overlap.ts';

const CLUSTER = 4096;
const range = fc.record({ first: fc.nat(2000), clusters: fc.integer({ min: 1, max: 700 }), isAdded: fc.boolean() });

test('metadata are found by the cluster and by the run, after any additions and deletions', (t) => {
  fc.assert(
    fc.property(fc.array(range, { maxLength: 12 }), fc.array(range, { maxLength: 20 }), (changes, questions) => {
      const metadata = new MetadataClusters(CLUSTER, true);
      const expected = new Set<number>();
      for (const { first, clusters, isAdded } of changes) {
        if (isAdded) metadata.add(first * CLUSTER, clusters * CLUSTER);
        else metadata.delete(first * CLUSTER, clusters * CLUSTER);
        for (let at = first; at < first + clusters; at += 1) {
          if (isAdded) expected.add(at);
          else expected.delete(at);
        }
      }
      for (const { first, clusters } of questions) {
        const all = Array.from({ length: clusters }, (_, at) => first + at);
        t.is(
          metadata.touches(first, clusters),
          all.some((at) => expected.has(at)),
        );
        t.is(metadata.has(first * CLUSTER + 1), expected.has(first));
      }
    }),
  );
});
