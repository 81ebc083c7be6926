import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { amendQcow2 } from '../../lib/sinks/qcow2/amend/index.ts';
import type { SourceRequest } from '../../lib/sources/source.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { galleryTools, qcow2Gallery } from '../support/images.ts';
import { withTmpDir } from '../support/tmp.ts';
import { casesOf } from './plans.ts';

const NAMES = ['version2', 'tiny-clusters', 'wide-refcounts', 'zlib'];
/** Of the cases of each plan, every so many. */
const STEP = 5;
const GATE: SourceRequest['gate'] = { openStorage: async (reference) => memoryStorage(reference) };

/** Changes what touches most: the width of the refcounts, the size, the version. Returns whether all of it was done. */
async function exercise(bytes: Buffer): Promise<boolean> {
  const change = async (before: Buffer, values: Record<string, string | number>): Promise<Buffer> => {
    const storage = memoryStorage('hostile', before);
    await amendQcow2({ storage, options: {}, writable: true, cache: 'writeback', gate: GATE, backing: null, values });
    return storage.bytes();
  };
  try {
    const wide = await change(bytes, { compat: 'v3', refcount_bits: 32 });
    await change(wide, { refcount_bits: 16, compat: 'v2' });
    return true;
  } catch (error) {
    if (error instanceof ImageError) return false;
    throw error;
  }
}

test('a spoiled image is amended, or refused clearly', async (t) => {
  if (galleryTools().some((each) => each.missing(t))) return;
  await withTmpDir(async (directory) => {
    const problems: string[] = [];
    const seen = { done: 0, refused: 0 };
    for (const { name, bytes } of qcow2Gallery(directory, NAMES)) {
      const cases = (['fields', 'random', 'truncated'] as const).flatMap((plan) => casesOf(plan, 'qcow2', bytes));
      for (const { name: mutation, apply } of cases.filter((_, index) => index % STEP === 0)) {
        try {
          seen[(await exercise(apply(Buffer.from(bytes)))) ? 'done' : 'refused'] += 1;
        } catch (error) {
          problems.push(`${name}: ${mutation}: ${(error as Error).stack}`);
        }
      }
    }
    t.deepEqual(problems.slice(0, 5), []);
    t.true(seen.done > 50 && seen.refused > 50, JSON.stringify(seen));
  });
});
