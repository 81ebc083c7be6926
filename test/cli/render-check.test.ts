import test from 'ava';
import { checkToJson, renderCheck, renderRepairs } from '../../lib/cli/render/check.ts';
import { renderJson } from '../../lib/cli/render/json.ts';
import type { CheckResult } from '../../lib/edits/check.ts';

const CLEAN: CheckResult = {
  format: 'qcow2',
  checkErrors: 0,
  corruptions: 0,
  leaks: 0,
  corruptionsFixed: 0,
  leaksFixed: 0,
};

test('a clean image takes a line, and statistics where there are any', (t) => {
  t.is(renderCheck(CLEAN), 'No errors were found on the image.\n');
  const statistics = {
    totalClusters: 1024,
    allocatedClusters: 16,
    fragmentedClusters: 2,
    compressedClusters: 0,
    imageEndOffset: 1376256,
  };
  t.is(
    renderCheck({ ...CLEAN, ...statistics }),
    'No errors were found on the image.\n' +
      '16/1024 = 1.56% allocated, 12.50% fragmented, 0.00% compressed clusters\n' +
      'Image end offset: 1376256\n',
  );
  t.notRegex(renderCheck({ ...CLEAN, ...statistics, allocatedClusters: 0 }), /allocated/);
});

test('percentages are rounded as printf does: a tie goes to the even digit', (t) => {
  const parts = { totalClusters: 100_000, fragmentedClusters: 0 };
  const shown = (allocatedClusters: number, totalClusters = parts.totalClusters) =>
    /= (.*)% allocated/.exec(renderCheck({ ...CLEAN, ...parts, allocatedClusters, totalClusters }))?.[1];
  t.is(shown(1, 32), '3.12');
  t.is(shown(3, 32), '9.38');
  t.is(shown(5, 32), '15.62');
  t.is(shown(1, 3), '33.33');
  t.is(shown(2, 3), '66.67');
  t.is(shown(1, 1), '100.00');
});

test('errors, leaks and failures of the check have a paragraph each', (t) => {
  t.is(
    renderCheck({ ...CLEAN, corruptions: 2, leaks: 3, checkErrors: 4 }),
    '\n2 errors were found on the image.\n' +
      'Data may be corrupted, or further writes to the image may corrupt it.\n' +
      '\n3 leaked clusters were found on the image.\n' +
      'This means waste of disk space, but no harm to data.\n' +
      '\n4 internal errors have occurred during the check.\n',
  );
});

test('repairs are told before the second look', (t) => {
  t.is(
    renderRepairs({ ...CLEAN, leaksFixed: 1, corruptionsFixed: 2 }),
    'The following inconsistencies were found and repaired:\n\n' +
      '    1 leaked clusters\n    2 corruptions\n\n' +
      'Double checking the fixed image now...\n',
  );
});

test('JSON leaves out what is 0, but for the errors of the check', (t) => {
  const json = renderJson(checkToJson('x', { ...CLEAN, leaks: 1, imageEndOffset: 512 }));
  t.deepEqual(JSON.parse(json), {
    'image-end-offset': 512,
    leaks: 1,
    'check-errors': 0,
    filename: 'x',
    format: 'qcow2',
  });
});
