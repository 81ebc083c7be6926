import fc from 'fast-check';

const SEED = process.env.IMGPIPE_TEST_SEED;

/**
 * Throws, with the seed and the shortest history that was found, unless the property holds for `runs` histories.
 * `IMGPIPE_TEST_RUNS` and `IMGPIPE_TEST_SEED` change how many and which.
 */
export async function assertProperty<T>(arbitrary: fc.Arbitrary<T>, check: (value: T) => Promise<void>, runs: number) {
  await fc.assert(fc.asyncProperty(arbitrary, check), {
    numRuns: Number(process.env.IMGPIPE_TEST_RUNS ?? runs),
    seed: SEED === undefined ? undefined : Number(SEED),
    includeErrorInReport: true,
  });
}
