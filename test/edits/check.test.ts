import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { type CheckReport, type CheckResult, check, create, type ImageError } from '../../lib/index.ts';
import { ClusterCounts } from '../../lib/sinks/qcow2/check/counts.ts';
import { setRefcount } from '../support/qcow2-spoils.ts';
import { withTmpDir } from '../support/tmp.ts';

const SIZE = 1024 * 1024;
const CLUSTER = 4096;

/** Calls `use` with the path of a qcow2 image that has some data. */
async function withImage(use: (path: string, directory: string) => Promise<void>): Promise<void> {
  await withTmpDir(async (directory) => {
    const path = join(directory, 'image.qcow2');
    const target = await create(path, { format: 'qcow2', size: SIZE, options: { cluster_size: String(CLUSTER) } });
    await target.write(5000, Buffer.alloc(100_000, 7));
    await target.close();
    await use(path, directory);
  });
}

/** Makes three clusters behind all others leak. */
function addLeaks(path: string): void {
  const bytes = readFileSync(path);
  const clusters = bytes.length / CLUSTER;
  const longer = Buffer.concat([bytes], bytes.length + 3 * CLUSTER);
  for (let more = 0; more < 3; more += 1) setRefcount(longer, clusters + more, 1);
  writeFileSync(path, longer);
}

function refused(t: ExecutionContext, action: Promise<unknown>): Promise<ImageError> {
  return t.throwsAsync<ImageError>(action as Promise<never>, { name: 'ImageError' });
}

test('a sound image has nothing to be told, and statistics', async (t) => {
  await withImage(async (path) => {
    const result = await check({ image: path });
    t.like(result, { format: 'qcow2', corruptions: 0, leaks: 0, checkErrors: 0, totalClusters: SIZE / CLUSTER });
    t.is(result.allocatedClusters, 25);
    t.is(result.imageEndOffset, readFileSync(path).length);
  });
});

test('findings come line by line; a repair is told, and followed by a second check', async (t) => {
  await withImage(async (path) => {
    addLeaks(path);
    const spoiled = readFileSync(path);
    const lines: string[] = [];
    const found: CheckResult = await check({ image: path, onFinding: (line) => lines.push(line) });
    t.is(found.leaks, 3);
    t.is(lines.filter((line) => /^Leaked cluster \d+ refcount=1 reference=0$/.test(line)).length, 3);
    t.true(readFileSync(path).equals(spoiled), 'without a repair nothing is written');
    const repairs: CheckReport[] = [];
    const result = await check({ image: path, repair: 'leaks', onRepaired: (report) => repairs.push(report) });
    t.is(repairs.length, 1);
    t.like(result, { leaks: 0, leaksFixed: 3, corruptions: 0, corruptionsFixed: 0 });
    t.like(await check({ image: path, repair: 'all' }), { leaks: 0, leaksFixed: 0 });
  });
});

test('what cannot be checked is told apart from what cannot be opened', async (t) => {
  await withImage(async (path, directory) => {
    const raw = await refused(t, check({ image: path, format: 'raw' }));
    t.deepEqual([raw.kind, raw.operation], ['unsupported', 'check']);
    const missing = await refused(t, check({ image: join(directory, 'missing') }));
    t.is(missing.kind, 'missing');
    t.not(missing.operation, 'check');
    const shared = await refused(t, check({ image: path, repair: 'all', forceShare: true }));
    t.is(shared.kind, 'invalid');
  });
});

test('a data file is asked for at the gate', async (t) => {
  await withTmpDir(async (directory) => {
    const path = join(directory, 'image.qcow2');
    const options = { data_file: join(directory, 'data.raw') };
    await (await create(path, { format: 'qcow2', size: SIZE, options })).close();
    t.is((await check({ image: path })).corruptions, 0);
    t.is((await refused(t, check({ image: path, implicit: 'refuse' }))).kind, 'refused');
  });
});

test('counts of clusters grow beyond a byte, and stay what they were beside it', (t) => {
  const counts = new ClusterCounts(4);
  t.is(counts.addRun(10, 20, 1), 1);
  t.false(counts.shared);
  t.is(counts.add(17, 254), 255);
  t.is(counts.addRun(15, 5, 1), 256);
  t.true(counts.shared);
  t.deepEqual(
    [9, 10, 14, 15, 16, 17, 18, 19, 20, 29, 30].map((cluster) => counts.get(cluster)),
    [0, 1, 1, 2, 2, 256, 2, 2, 1, 1, 0],
  );
  t.is(counts.bytesOf(17), null);
  t.is(counts.bytesOf(10)?.[10], 1);
  t.false(counts.touches(32, 64));
  counts.set(40, 1_000_000);
  t.is(counts.get(40), 1_000_000);
  t.is(counts.add(40, 0xffff_ffff) > 0xffff_ffff, true);
  t.is(counts.get(40), 0xffff_ffff);
});
