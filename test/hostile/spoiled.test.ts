import test from 'ava';
import { GALLERY_NAMES, galleryTools, qcow2Gallery } from '../support/images.ts';
import { withTmpDir } from '../support/tmp.ts';
import { checkReport, runCampaign } from './watch.ts';

test('the images that the other tests spoil work in every step as long as they are sound', async (t) => {
  if (galleryTools().some((each) => each.missing(t))) return;
  await withTmpDir(async (directory) => {
    qcow2Gallery(directory);
    const report = await runCampaign(directory, 'sound', GALLERY_NAMES);
    checkReport(t, report);
    t.is(report.cases, GALLERY_NAMES.length);
    // What must be refused even so: snapshots that an image does not have.
    const others = Object.keys(report.messages).filter((message) => !message.startsWith('snapshot: [missing]'));
    t.deepEqual(others, []);
  });
});

test('files cut off at any structure give results or clear errors', async (t) => {
  if (galleryTools().some((each) => each.missing(t))) return;
  await withTmpDir(async (directory) => {
    qcow2Gallery(directory);
    checkReport(t, await runCampaign(directory, 'truncated', GALLERY_NAMES));
  });
});

test('random bytes in headers and tables give results or clear errors', async (t) => {
  if (galleryTools().some((each) => each.missing(t))) return;
  await withTmpDir(async (directory) => {
    qcow2Gallery(directory);
    checkReport(t, await runCampaign(directory, 'random', GALLERY_NAMES));
  });
});
