import test from 'ava';
import { drivers } from '../../lib/formats/index.ts';
import { withTmpDir } from '../support/tmp.ts';
import { ANATOMY_NAMES } from './anatomies/index.ts';
import { formatOf, RECIPES } from './gallery.ts';
import { checkReport, runCampaign } from './watch.ts';

const NAMES = drivers().map(({ name }) => name);

test('every format that has structures is taken apart somewhere', (t) => {
  const made = new Set(RECIPES.map(({ file }) => formatOf(file)));
  for (const name of NAMES.filter((each) => each !== 'raw')) {
    t.true(ANATOMY_NAMES.includes(name), `an anatomy of ${name}`);
    t.true(name === 'qcow2' || made.has(name), `an image of ${name}`);
  }
});

// One after the other: each has a process of its own, and a machine has few cores.
for (const { file, tools, make } of RECIPES.filter((each) => NAMES.includes(formatOf(each.file)))) {
  test.serial(
    `${file}: sound it works in every step; spoilt by the thousand it gives results or clear errors`,
    async (t) => {
      if (tools.some((each) => each.missing(t))) return;
      await withTmpDir(async (directory) => {
        await make(directory);
        const sound = await runCampaign(directory, 'sound', [file]);
        checkReport(t, sound);
        t.deepEqual(sound.messages, {});
        const spoilt = await runCampaign(directory, 'all', [file]);
        checkReport(t, spoilt);
        t.true(spoilt.cases > 100);
        t.true(spoilt.refused > spoilt.cases / 10, `${spoilt.refused} of ${spoilt.cases} refused`);
      });
    },
  );
}
