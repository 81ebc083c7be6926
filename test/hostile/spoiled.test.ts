import test from 'ava';
import { GALLERY_NAMES, galleryTools, qcow2Gallery } from '../support/images.ts';
import { withTmpDir } from '../support/tmp.ts';
import { checkReport, runCampaign } from './watch.ts';

const fileOf = (name: string) => `${name}.qcow2`;
const FILES = GALLERY_NAMES.map(fileOf);

test.serial('the images that the other tests spoil work in every step as long as they are sound', async (t) => {
  if (galleryTools().some((each) => each.missing(t))) return;
  await withTmpDir(async (directory) => {
    qcow2Gallery(directory);
    const report = await runCampaign(directory, 'sound', FILES);
    checkReport(t, report);
    t.is(report.cases, GALLERY_NAMES.length);
    // What must be refused even so: snapshots that an image does not have.
    const others = Object.keys(report.messages).filter((message) => !message.startsWith('snapshot: [missing]'));
    t.deepEqual(others, []);
  });
});

test.serial('files cut off at any structure give results or clear errors', async (t) => {
  if (galleryTools().some((each) => each.missing(t))) return;
  await withTmpDir(async (directory) => {
    qcow2Gallery(directory);
    checkReport(t, await runCampaign(directory, 'truncated', FILES));
  });
});

// In parts, so that there is a result now and then.
for (const part of [0, 1, 2]) {
  const names = GALLERY_NAMES.filter((_, index) => index % 3 === part);
  test.serial(`random bytes in headers and tables give results or clear errors: ${names.join(', ')}`, async (t) => {
    if (galleryTools().some((each) => each.missing(t))) return;
    await withTmpDir(async (directory) => {
      qcow2Gallery(directory, names);
      checkReport(t, await runCampaign(directory, 'random', names.map(fileOf)));
    });
  });
}
