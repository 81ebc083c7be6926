import { Random } from '../support/model.ts';
import { fieldMutations, type Mutation, randomMutations, truncations } from '../support/mutate.ts';
import { anatomyOf } from './anatomies/index.ts';
import type { Anatomy } from './anatomy.ts';

/** How an image is spoiled. */
export type PlanName = 'sound' | 'fields' | 'random' | 'truncated' | 'all';

/** Structures whose every edge is tried: a file of thousands would take all day. */
const EDGES = 60;
/** Units at whose ends files are cut off. */
const UNITS = 40;

/** Formats with blocks of a MiB make files that take their time to copy: of these, fewer cases. */
const BYTES_TO_MUTATE = 2 * 1024 ** 3;
const MIN_CASES = 300;

const PLANS: Record<PlanName, (bytes: Buffer, anatomy: Anatomy) => Mutation[]> = {
  sound: () => [{ name: 'as it is', apply: (bytes) => bytes }],
  fields(bytes, { fields, places, texts = [], seal }) {
    const plain = fieldMutations(bytes, fields, places);
    if (seal === undefined) return [...plain, ...texts];
    // Behind a checksum nearly every value is refused for the same reason: some of these are enough.
    return [...plain.map((each) => sealed(each, seal)), ...plain.filter((_, index) => index % 8 === 0), ...texts];
  },
  random(_, { regions, seal }) {
    const plain = randomMutations(new Random(SEED), regions, RANDOM_CASES);
    return seal === undefined ? plain : plain.map((each, index) => (index % 4 === 0 ? each : sealed(each, seal)));
  },
  truncated(bytes, { unit, regions, cuts }) {
    const edges = regions
      .slice(0, EDGES)
      .flatMap(({ offset, length }) => [offset, offset + 1, offset + length - 1, offset + length]);
    const units = Array.from({ length: Math.floor(bytes.length / unit) }, (_, index) => index * unit);
    const lengths = [...cuts, ...edges, ...units.slice(0, UNITS), bytes.length - 1, bytes.length - 512];
    return truncations(lengths.filter((length) => length >= 0 && length < bytes.length));
  },
  all(bytes, anatomy) {
    const cases = (['fields', 'random', 'truncated'] as const).flatMap((name) => PLANS[name](bytes, anatomy));
    return thinned(cases, anatomy.cases ?? Math.max(MIN_CASES, Math.floor(BYTES_TO_MUTATE / bytes.length)));
  },
};

/** At most `count` of them, from everywhere in the list. */
function thinned<T>(items: readonly T[], count: number): T[] {
  const step = Math.max(1, items.length / count);
  return items.filter((_, index) => Math.floor(index / step) !== Math.floor((index - 1) / step));
}

function sealed({ name, apply }: Mutation, seal: (bytes: Buffer) => void): Mutation {
  return {
    name: `${name}, checksums made right`,
    apply(bytes) {
      const spoiled = apply(bytes);
      seal(spoiled);
      return spoiled;
    },
  };
}

/** These change what the random plan does, and how often; the names of cases repeat what each one did. */
const SEED = Number(process.env.IMGPIPE_TEST_SEED ?? 20241);
const RANDOM_CASES = Number(process.env.IMGPIPE_TEST_RUNS ?? 150);

/** The mutations of an image of the format under a plan; always the same ones. */
export function casesOf(plan: PlanName, format: string, bytes: Buffer): Mutation[] {
  return PLANS[plan](bytes, anatomyOf(format, bytes));
}
