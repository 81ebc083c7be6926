import test from 'ava';
import type { Driver } from '../../lib/formats/driver.ts';
import { DiskModel, Random } from '../support/model.ts';
import { assertDisk } from './checks.ts';
import { factsOf } from './facts.ts';
import { Subject } from './subject.ts';

/** Images that others made: the only ones there are for a format without `create`. */
export function fixtureTests(driver: Driver): void {
  const { fixtures } = factsOf(driver);
  if (fixtures === undefined) return;
  test(`${driver.name}: images made by others are recognised, and read as they should`, async (t) => {
    await new Subject(driver, {}).within(async (subject) => {
      const made = await fixtures(subject.path('.'));
      if (made.length === 0) t.log('skipped: the tools that make them are not installed');
      for (const { path, contents } of made) {
        const image = await subject.open(path, null);
        t.is(image.driver.name, driver.name);
        const model = new DiskModel(contents.length);
        model.write(0, contents);
        await assertDisk(t, image.chain, model, new Random(1)).finally(() => image.close());
      }
      t.pass();
    });
  });
}
