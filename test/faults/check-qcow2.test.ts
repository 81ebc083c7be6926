import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import type { CheckReport } from '../../lib/sinks/checks.ts';
import { checkQcow2 } from '../../lib/sinks/qcow2/check/index.ts';
import { openQcow2 } from '../../lib/sources/qcow2/index.ts';
import { type Fault, faultyStorage, type StorageEvent } from '../../lib/storage/faulty.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import type { Storage } from '../../lib/storage/storage.ts';
import { galleryTools, qcow2Gallery } from '../support/images.ts';
import { Random } from '../support/model.ts';
import { SPOILS } from '../support/qcow2-spoils.ts';
import { closedGate, openRequest } from '../support/requests.ts';
import { withTmpDir } from '../support/tmp.ts';
import { afterCrash, type Loss } from './power.ts';

/** What a disk without power may have kept of what no flush had made sure of: each moment is looked at so often. */
const LOSSES: readonly Loss[] = ['whole', 'whole', 'torn', 'torn'];

function checked(storage: Storage, repair: 'all' | null): Promise<CheckReport> {
  return checkQcow2({ ...openRequest(storage, repair !== null, { gate: closedGate }), repair, report: () => {} });
}

/** The disk, and what its first snapshot has. */
async function contentsOf(storage: Storage): Promise<Buffer> {
  const source = await openQcow2({ ...openRequest(storage, false, { gate: closedGate }), forCheck: true });
  const { snapshots = [] } = await source.describe();
  const disk = Buffer.alloc(source.size);
  await source.read(0, disk);
  if (snapshots.length === 0) return disk;
  const snapshot = await source.openSnapshot({ id: snapshots[0].id });
  const saved = Buffer.alloc(snapshot.size);
  await snapshot.read(0, saved);
  return Buffer.concat([disk, saved]);
}

/**
 * Null where the image is repaired to a clean one that has the contents; else what is wrong. Two repairs: a refcount behind the end of
 * the file, where a table was going to be, becomes visible as a leak only when the first one has put a table behind it.
 */
async function wrongAfterRepair(storage: Storage, contents: Buffer): Promise<string | null> {
  await checked(storage, 'all');
  await checked(storage, 'all');
  const { corruptions, leaks, checkErrors } = await checked(storage, null);
  if (corruptions + leaks + checkErrors > 0) return `${corruptions} corruptions, ${leaks} leaks`;
  return (await contentsOf(storage)).equals(contents) ? null : 'other contents';
}

for (const { name, image, other = false, spoil } of SPOILS) {
  test(`${name}: a repair that is cut off at any moment leaves what can be repaired, and the contents`, async (t) => {
    if (galleryTools().some((each) => each.missing(t))) return;
    await withTmpDir(async (directory) => {
      const [{ bytes }] = qcow2Gallery(directory, [image]);
      const spoiled = Buffer.from(bytes);
      spoil(spoiled);
      const contents = await contentsOf(memoryStorage('before', other ? spoiled : bytes));
      const record: StorageEvent[] = [];
      const report = await checked(faultyStorage(memoryStorage('spoiled', spoiled), { record }), 'all');
      t.true(report.corruptionsFixed + report.leaksFixed > 0);
      const random = new Random(record.length);
      for (let count = 0; count <= record.length; count += 1) {
        const before = record.slice(0, count);
        const whole = memoryStorage('crashed', await afterCrash(spoiled, before, { loss: 'none', random }));
        t.true((await contentsOf(whole)).equals(contents), `contents after ${count} operations`);
        t.is(await wrongAfterRepair(whole, contents), null, `after ${count} of ${record.length} operations`);
        for (const loss of LOSSES) {
          const partly = memoryStorage('crashed', await afterCrash(spoiled, before, { loss, random }));
          t.is(await wrongAfterRepair(partly, contents), null, `after ${count} operations, loss: ${loss}`);
        }
      }
    });
  });

  test(`${name}: a repair that meets a broken or full disk ends in one error, and can be done again`, async (t) => {
    if (galleryTools().some((each) => each.missing(t))) return;
    await withTmpDir(async (directory) => {
      const [{ bytes }] = qcow2Gallery(directory, [image]);
      const spoiled = Buffer.from(bytes);
      spoil(spoiled);
      const contents = await contentsOf(memoryStorage('before', other ? spoiled : bytes));
      let failures = 0;
      for (const operation of ['write', 'flush', 'read'] as const) {
        for (let nth = 1; ; nth += 1) {
          const memory = memoryStorage('failing', spoiled);
          const faults: Fault[] = [{ operation, nth, code: operation === 'write' ? 'ENOSPC' : 'EIO', lasting: true }];
          const error = await checked(faultyStorage(memory, { faults }), 'all').then(
            () => null,
            (failure: unknown) => failure,
          );
          if (error === null) break;
          failures += 1;
          t.true(error instanceof ImageError, `${operation} ${nth}: ${(error as Error).stack}`);
          t.is(await wrongAfterRepair(memory, contents), null, `${operation} ${nth}`);
        }
      }
      t.true(failures >= 3);
    });
  });
}
