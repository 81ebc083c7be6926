import test from 'ava';
import { drivers } from '../../lib/formats/index.ts';
import { conformanceSuite } from './suite.ts';

for (const driver of drivers()) conformanceSuite(driver);

test('there are formats to test', (t) => {
  t.true(drivers().length >= 2);
});
