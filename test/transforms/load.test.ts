import test from 'ava';
import { Writable } from 'streamx';
import { ImageError } from '../../lib/core/errors.ts';
import type { ExtentBatch } from '../../lib/core/extent.ts';
import { pipeline } from '../../lib/core/streams.ts';
import { extentStream, walkExtents } from '../../lib/sources/extents.ts';
import { load } from '../../lib/transforms/load.ts';
import { bytesOf, fakeDisk, type Run, told } from '../support/disks.ts';
import { Random } from '../support/model.ts';

const MIB = 1024 * 1024;

async function loadedFrom(disk: ReturnType<typeof fakeDisk>, options: Parameters<typeof load>[0] = {}) {
  const out: ExtentBatch[] = [];
  const sink = new Writable({
    write(batch, callback) {
      out.push(batch as ExtentBatch);
      callback(null);
    },
  });
  await pipeline(extentStream(disk), load(options), sink);
  return out;
}

test('walking a disk gives its extents whatever a map call answers', async (t) => {
  const runs: Run[] = [
    ['data', 10],
    ['zero', 20],
    ['unallocated', 5],
    ['data', 100],
  ];
  for (const perMap of [1, 2, 100]) {
    const batches: ExtentBatch[] = [];
    for await (const batch of walkExtents(fakeDisk(runs, { perMap }))) batches.push(batch);
    t.deepEqual(told(batches), ['data 0+10', 'zero 10+20', 'unallocated 30+5', 'data 35+100']);
  }
});

test('walking a part of a disk is cut to it, and beyond the end is nothing', async (t) => {
  const disk = fakeDisk([
    ['data', 10],
    ['zero', 20],
  ]);
  const batches: ExtentBatch[] = [];
  for await (const batch of walkExtents(disk, { offset: 5, length: 10 })) batches.push(batch);
  t.deepEqual(told(batches), ['data 5+5', 'zero 10+5']);
  for await (const batch of walkExtents(disk, { offset: 30 })) t.fail(String(batch));
});

test('a map that does not get on is an error, not a hang', async (t) => {
  const stuck = { name: 'stuck', size: 10, map: async () => [] };
  const error = await t.throwsAsync(walkExtents(stuck).next(), { instanceOf: ImageError });
  t.is((error as ImageError).kind, 'corrupt');
});

test('loading gives the bytes of random disks, in order, for each setting', async (t) => {
  const random = new Random(7);
  for (let round = 0; round < 20; round += 1) {
    const runs: Run[] = Array.from({ length: 30 }, () => [
      random.pick(['data', 'zero', 'unallocated'] as const),
      1 + random.below(random.pick([100, 70_000, 3 * MIB])),
    ]);
    const disk = fakeDisk(runs, { plain: round % 2 === 0, perMap: 1 + random.below(5) });
    const options = { parallel: 1 + random.below(8), unit: random.pick([512, 65536, 2 * MIB]), pooled: false };
    const batches = await loadedFrom(disk, options);
    t.true(bytesOf(batches, disk.size).equals(disk.contents));
    let next = 0;
    for (const batch of batches)
      for (const { offset, length } of batch) {
        t.is(offset, next);
        next = offset + length;
      }
    t.is(next, disk.size);
  }
});

test('neighbours on the host are one read of two megabytes, ending at units of the target', async (t) => {
  const disk = fakeDisk(Array.from({ length: 192 }, (): Run => ['data', 65536 / 2]));
  await loadedFrom(disk);
  t.deepEqual(disk.reads, [
    [0, 2 * MIB],
    [2 * MIB, 2 * MIB],
    [4 * MIB, 2 * MIB],
  ]);
});

test('no more reads are in flight than allowed', async (t) => {
  const disk = fakeDisk([['data', 12 * MIB]]);
  let [now, most] = [0, 0];
  disk.beforeRead = async () => {
    now += 1;
    most = Math.max(most, now);
    await new Promise((resolve) => setTimeout(resolve, 2));
    now -= 1;
  };
  await loadedFrom(disk, { parallel: 3 });
  t.is(most, 3);
});

test('a pooled payload is used again only when its batch was released', async (t) => {
  const disk = fakeDisk([['data', 30 * MIB]]);
  // Kept, never released: every payload must still be right at the end.
  t.true(bytesOf(await loadedFrom(disk, { pooled: true }), disk.size).equals(disk.contents));
  const memory = new Set<unknown>();
  const sink = new Writable({
    write(data, callback) {
      const batch = data as ExtentBatch;
      memory.add(batch.extents[0].payload?.buffer);
      batch.release();
      callback(null);
    },
  });
  await pipeline(extentStream(disk), load({ pooled: true, parallel: 2 }), sink);
  t.true(memory.size < 12, `${memory.size} buffers`);
});

test('a failed read names the guest offset and keeps the reason', async (t) => {
  const disk = fakeDisk([
    ['zero', MIB],
    ['data', MIB],
    ['zero', MIB],
  ]);
  disk.beforeRead = () => {
    throw new ImageError('io', 'Input/output error', { code: 'EIO' });
  };
  const error = (await t.throwsAsync(loadedFrom(disk))) as ImageError;
  t.is(error.message, 'error while reading at byte 1048576: Input/output error');
  t.is(error.kind, 'io');
  t.is(error.code, 'EIO');
  t.is(error.offset, MIB);
});

test('salvaging replaces only the sectors that cannot be read, and tells them', async (t) => {
  const disk = fakeDisk([['data', 8192]]);
  disk.beforeRead = (offset, length) => {
    if (offset < 1600 && offset + length > 1024) throw new ImageError('io', 'Input/output error');
  };
  const lost: number[] = [];
  const batches = await loadedFrom(disk, { onUnreadable: (offset) => void lost.push(offset) });
  t.deepEqual(lost, [1024, 1536]);
  const expected = Buffer.from(disk.contents).fill(0, 1024, 2048);
  t.true(bytesOf(batches, disk.size).equals(expected));
});
