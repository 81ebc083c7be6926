import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import type { CheckReport } from '../../lib/sinks/checks.ts';
import { checkQcow2 } from '../../lib/sinks/qcow2/check/index.ts';
import { type MemoryStorage, memoryStorage } from '../../lib/storage/memory.ts';
import { galleryTools, qcow2Gallery } from '../support/images.ts';
import { emptyGate, openRequest } from '../support/requests.ts';
import { withTmpDir } from '../support/tmp.ts';
import { casesOf } from './plans.ts';

/** One of each feature that a check walks through. */
const NAMES = [
  'version2',
  'tiny-clusters',
  'wide-refcounts',
  'zlib',
  'extended-l2',
  'snapshots',
  'bitmaps',
  'data-file',
];
/** Of the cases of each plan, every so many: all of them would take a minute. */
const STEP = 3;
/** No image of the gallery has anything like it: a walk that goes round in circles is told by it. */
const MOST_LINES = 1_000_000;

/** The report; null for a clear refusal. Anything else that is thrown fails the test. */
async function checked(storage: MemoryStorage, repair: 'all' | 'leaks' | null): Promise<CheckReport | null> {
  let lines = 0;
  const report = () => {
    lines += 1;
    if (lines > MOST_LINES) throw new Error('The check does not come to an end');
  };
  const request = openRequest(storage, repair !== null, { gate: emptyGate });
  try {
    return await checkQcow2({ ...request, repair, report });
  } catch (error) {
    if (error instanceof ImageError) return null;
    throw error;
  }
}

test('a spoiled image is checked and repaired, or refused clearly, and a repair leaves nothing to repair', async (t) => {
  if (galleryTools().some((each) => each.missing(t))) return;
  await withTmpDir(async (directory) => {
    const problems: string[] = [];
    const seen = { refused: 0, corrupt: 0, repaired: 0 };
    for (const { name, bytes } of qcow2Gallery(directory, NAMES)) {
      const cases = (['fields', 'random', 'truncated'] as const).flatMap((plan) => casesOf(plan, 'qcow2', bytes));
      for (const { name: mutation, apply } of cases.filter((_, index) => index % STEP === 0)) {
        const what = `${name}: ${mutation}`;
        try {
          const storage = memoryStorage('hostile', apply(Buffer.from(bytes)));
          const found = await checked(storage, null);
          const repaired = await checked(storage, 'all');
          if (found === null) seen.refused += 1;
          else if (found.corruptions > 0) seen.corrupt += 1;
          if (repaired === null) continue;
          if (repaired.corruptionsFixed > 0) seen.repaired += 1;
          const left = await checked(storage, null);
          const again = await checked(storage, 'all');
          const rest = [again?.corruptionsFixed, again?.leaksFixed, left?.leaks].join(' ');
          if (rest !== '0 0 0') problems.push(`${what}: ${rest}`);
        } catch (error) {
          problems.push(`${what}: ${(error as Error).stack}`);
        }
      }
    }
    t.log(seen);
    t.deepEqual(problems, []);
    // A run in which nothing was refused, found or repaired has aimed badly.
    t.true(Math.min(seen.refused, seen.corrupt, seen.repaired) > 100);
  });
});
