import { Random } from '../support/model.ts';
import { fieldMutations, type Mutation, randomMutations, truncations } from '../support/mutate.ts';
import { anatomyOf } from './anatomy.ts';

/** How an image is spoiled. */
export type PlanName = 'sound' | 'fields' | 'random' | 'truncated';

const PLANS: Record<PlanName, (bytes: Buffer) => Mutation[]> = {
  sound: () => [{ name: 'as it is', apply: (bytes) => bytes }],
  fields(bytes) {
    const { fields, places } = anatomyOf(bytes);
    return fieldMutations(bytes, fields, places);
  },
  random(bytes) {
    const { regions } = anatomyOf(bytes);
    return randomMutations(new Random(SEED), regions, RANDOM_CASES);
  },
  truncated(bytes) {
    const { clusterSize, regions } = anatomyOf(bytes);
    const edges = regions.flatMap(({ offset, length }) => [offset, offset + 1, offset + length - 1, offset + length]);
    const header = [0, 1, 3, 4, 7, 8, 24, 71, 72, 73, 103, 104, 105, 111, 112, 511, 512];
    const clusters = Array.from({ length: Math.floor(bytes.length / clusterSize) }, (_, index) => index * clusterSize);
    const lengths = [...header, ...edges, ...clusters.slice(0, 40), bytes.length - 1, bytes.length - 512];
    return truncations(lengths.filter((length) => length >= 0 && length < bytes.length));
  },
};

/** These change what the random plan does, and how often; the names of cases repeat what each one did. */
const SEED = Number(process.env.IMGPIPE_TEST_SEED ?? 20241);
const RANDOM_CASES = Number(process.env.IMGPIPE_TEST_RUNS ?? 150);

/** The mutations of an image under a plan; always the same ones. */
export function casesOf(plan: PlanName, bytes: Buffer): Mutation[] {
  return PLANS[plan](bytes);
}
