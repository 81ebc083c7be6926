import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { openQcow2Snapshots } from '../../lib/sinks/qcow2/snapshots/index.ts';
import type { SourceRequest } from '../../lib/sources/source.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { galleryTools, qcow2Gallery } from '../support/images.ts';
import { withTmpDir } from '../support/tmp.ts';
import { casesOf } from './plans.ts';

const NAMES = ['version2', 'tiny-clusters', 'extended-l2', 'snapshots'];
/** Of the cases of each plan, every so many. */
const STEP = 5;
const GATE: SourceRequest['gate'] = { openStorage: async (reference) => memoryStorage(reference) };

/** Takes a snapshot of what is there, then applies and deletes the first. Returns whether all of it was done. */
async function exercise(bytes: Buffer): Promise<boolean> {
  const storage = memoryStorage('hostile', bytes);
  const request = { storage, options: {}, writable: true, cache: 'writeback', gate: GATE, backing: null } as const;
  try {
    const editor = await openQcow2Snapshots(request);
    await editor.create('new');
    const [{ id, name }] = await editor.list();
    await editor.apply(id);
    await editor.delete({ id, name });
    await editor.close();
    return true;
  } catch (error) {
    if (error instanceof ImageError) return false;
    throw error;
  }
}

test('snapshots of a spoiled image are taken, applied and deleted, or refused clearly', async (t) => {
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
