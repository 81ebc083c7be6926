import test from 'ava';
import { GALLERY_NAMES, galleryTools, qcow2Gallery } from '../support/images.ts';
import { withTmpDir } from '../support/tmp.ts';
import { checkReport, runCampaign } from './watch.ts';

// Two processes, since test machines have at least two cores.
const halves = [0, 1].map((half) => GALLERY_NAMES.filter((_, index) => index % 2 === half));

for (const names of halves) {
  test(`fields of headers, extensions and tables at any value give results or clear errors: ${names.join(', ')}`, async (t) => {
    if (galleryTools().some((each) => each.missing(t))) return;
    await withTmpDir(async (directory) => {
      qcow2Gallery(directory, names);
      const report = await runCampaign(directory, 'fields', names);
      checkReport(t, report);
      // Most values contradict the rest of the file: a run in which little is refused has aimed badly.
      t.true(report.refused > report.cases / 3);
      t.true(report.located > 0);
    });
  });
}
