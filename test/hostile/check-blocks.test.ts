import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import type { CheckReport, Driver } from '../../lib/formats/driver.ts';
import { drivers } from '../../lib/formats/index.ts';
import { type MemoryStorage, memoryStorage } from '../../lib/storage/memory.ts';
import { emptyGate, openRequest } from '../support/requests.ts';
import { withTmpDir } from '../support/tmp.ts';
import { formatOf, RECIPES } from './gallery.ts';
import { casesOf } from './plans.ts';

const FORMATS = ['qed', 'vdi', 'parallels', 'vhdx', 'vmdk'];
/** Of each image's cases, spread over all of them; fewer of files with blocks of a MiB, which are slow to copy. */
const CASES = { small: 120, large: 30 };
const LARGE = 2 * 1024 * 1024;
/** What no image here has: a walk that goes round in circles is told by it. */
const MOST_LINES = 1_000_000;

/** As the verb does: opened, then checked. Null for a clear refusal; anything else that is thrown fails the test. */
async function checked(
  driver: Driver,
  storage: MemoryStorage,
  repair: 'all' | 'leaks' | null,
): Promise<CheckReport | null> {
  let lines = 0;
  const report = () => {
    lines += 1;
    if (lines > MOST_LINES) throw new Error('The check does not come to an end');
  };
  const request = openRequest(storage, repair !== null, { gate: emptyGate });
  try {
    const source = await driver.openSource({ ...request, metadataOnly: true, forCheck: true });
    await source.close();
    return (await driver.check?.({ ...request, repair, report })) ?? null;
  } catch (error) {
    if (error instanceof ImageError) return null;
    throw error;
  }
}

const recipes = RECIPES.filter(({ file }) => FORMATS.includes(formatOf(file)));

for (const { file, tools, make } of recipes) {
  test.serial(
    `${file}: spoilt it is checked and repaired, or refused clearly; a second repair finds nothing`,
    async (t) => {
      if (tools.some((each) => each.missing(t))) return;
      const driver = drivers().find(({ name }) => name === formatOf(file));
      if (driver?.check === undefined) return t.fail('no check');
      await withTmpDir(async (directory) => {
        await make(directory);
        const bytes = readFileSync(join(directory, file));
        const cases = casesOf('all', driver.name, bytes);
        const step = Math.max(1, Math.floor(cases.length / (bytes.length > LARGE ? CASES.large : CASES.small)));
        const problems: string[] = [];
        const seen = { refused: 0, found: 0 };
        for (const { name, apply } of cases.filter((_, index) => index % step === 0)) {
          try {
            const storage = memoryStorage('hostile', apply(Buffer.from(bytes)));
            const found = await checked(driver, storage, null);
            if (found === null) seen.refused += 1;
            else if (found.corruptions + found.leaks > 0) seen.found += 1;
            if ((await checked(driver, storage, 'all')) === null) continue;
            const left = await checked(driver, storage, null);
            const again = await checked(driver, storage, 'all');
            // Of a Parallels image whose extension is broken, writers open more than readers.
            const rest = `${again?.corruptionsFixed} ${again?.leaksFixed} ${left === null && found !== null}`;
            if (rest !== '0 0 false') problems.push(`${name}: ${rest}`);
          } catch (error) {
            problems.push(`${name}: ${(error as Error).stack}`);
          }
        }
        t.log(seen);
        t.deepEqual(problems, []);
        t.true(seen.refused + seen.found > 5, 'the cases are aimed badly');
      });
    },
  );
}
