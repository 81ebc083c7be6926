import type { Driver } from '../../lib/formats/driver.ts';
import { backingTests } from './backing.ts';
import { factsOf } from './facts.ts';
import { fixtureTests } from './fixtures.ts';
import { lifeTests } from './life.ts';
import { probeTests } from './probe.ts';
import { Subject } from './subject.ts';
import { writeTests } from './writes.ts';

/**
 * Declares the tests that every format must pass, for one driver. What the driver's card lacks is left out:
 * no `create`, no tests of new images; no `supportsBacking`, none of backing files; and so on.
 */
export function conformanceSuite(driver: Driver): void {
  probeTests(driver);
  fixtureTests(driver);
  if (driver.create === undefined) return;
  for (const options of factsOf(driver).optionSets) {
    const subject = new Subject(driver, options);
    lifeTests(subject);
    if (driver.openTarget !== undefined) writeTests(subject);
    // An image whose data lie raw beside it can't leave anything to a backing file.
    if (driver.supportsBacking && !subject.facts.standsAlone?.(options)) backingTests(subject);
  }
}
