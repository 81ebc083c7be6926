import { drivers } from '../../lib/formats/index.ts';
import { backingTests } from './backing.ts';
import { factsOf } from './facts.ts';
import { fixtureTests } from './fixtures.ts';
import { lifeTests } from './life.ts';
import { probeTests } from './probe.ts';
import { Subject } from './subject.ts';
import { writeTests } from './writes.ts';

/** The formats that the suite runs on, with each of their option sets if they can be made. */
function subjects(): Subject[] {
  const able = drivers().filter(({ create }) => create !== undefined);
  return able.flatMap((driver) => factsOf(driver).optionSets.map((options) => new Subject(driver, options)));
}

/**
 * Declares the tests that every format must pass. What a driver's card lacks is left out: no `create`, no tests of
 * new images; no `supportsBacking`, none of backing files; and so on. In parts, because AVA gives each test file a
 * process.
 */
export const conformance = {
  reading(): void {
    for (const driver of drivers()) {
      probeTests(driver);
      fixtureTests(driver);
    }
  },
  life(): void {
    for (const subject of subjects()) lifeTests(subject);
  },
  writing(): void {
    for (const subject of subjects().filter(({ driver }) => driver.openTarget !== undefined)) writeTests(subject);
  },
  backing(): void {
    for (const subject of subjects()) {
      // An image whose data lie raw beside it can't leave anything to a backing file.
      if (subject.driver.supportsBacking && !subject.facts.standsAlone?.(subject.options)) backingTests(subject);
    }
  },
};
