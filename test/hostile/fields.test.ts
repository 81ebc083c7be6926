import test from 'ava';
import { GALLERY_NAMES, galleryTools, qcow2Gallery } from '../support/images.ts';
import { withTmpDir } from '../support/tmp.ts';
import { checkReport, runCampaign } from './watch.ts';

// One after the other: each has a process of its own, and a machine has few cores.
for (const name of GALLERY_NAMES) {
  test.serial(
    `${name}: fields of headers, extensions and tables at any value give results or clear errors`,
    async (t) => {
      if (galleryTools().some((each) => each.missing(t))) return;
      await withTmpDir(async (directory) => {
        qcow2Gallery(directory, [name]);
        const report = await runCampaign(directory, 'fields', [`${name}.qcow2`]);
        checkReport(t, report);
        // Most values contradict the rest of the file: a run in which little is refused has aimed badly.
        t.true(report.refused > report.cases / 3);
        t.true(report.located > 0);
      });
    },
  );
}
