import type { ExecutionContext } from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { galleryTools, qcow2Gallery } from '../support/images.ts';
import { withTmpDir } from '../support/tmp.ts';
import { casesOf } from './plans.ts';

/** Of the cases of each plan, every so many. */
const STEP = 5;

/**
 * Edits the qcow2 images of these names, spoiled in every way: each edit ends, or is refused with an ImageError, and both
 * happen often enough.
 */
export async function editSpoiled(
  t: ExecutionContext,
  names: readonly string[],
  edit: (bytes: Buffer) => Promise<void>,
): Promise<void> {
  if (galleryTools().some((each) => each.missing(t))) return;
  await withTmpDir(async (directory) => {
    const problems: string[] = [];
    const seen = { done: 0, refused: 0 };
    for (const { name, bytes } of qcow2Gallery(directory, [...names])) {
      const cases = (['fields', 'random', 'truncated'] as const).flatMap((plan) => casesOf(plan, 'qcow2', bytes));
      for (const { name: mutation, apply } of cases.filter((_, index) => index % STEP === 0)) {
        try {
          await edit(apply(Buffer.from(bytes)));
          seen.done += 1;
        } catch (error) {
          if (error instanceof ImageError) seen.refused += 1;
          else problems.push(`${name}: ${mutation}: ${(error as Error).stack}`);
        }
      }
    }
    t.deepEqual(problems.slice(0, 5), []);
    t.true(seen.done > 50 && seen.refused > 50, JSON.stringify(seen));
  });
}
