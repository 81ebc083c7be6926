import { join } from 'node:path';
import test from 'ava';
import { openFile } from '../../lib/storage/file.ts';
import type { HostRange, Storage } from '../../lib/storage/storage.ts';
import { overrideSystemCalls } from '../../lib/syscalls/calls.ts';
import { withTmpDir } from '../support/tmp.ts';
import { pattern, wholeMap } from './model.ts';

/** File systems allocate in blocks of at most this size; data lie at multiples of it here. */
const BLOCK = 65_536;

async function withSparseFile(
  size: number,
  blocks: number[],
  use: (storage: Storage) => Promise<unknown>,
): Promise<void> {
  await withTmpDir(async (directory) => {
    const storage = await openFile(join(directory, 'x'), { create: true });
    const bytes = pattern(BLOCK, 9);
    for (const block of blocks) await storage.write(block * BLOCK, bytes);
    await storage.truncate(size);
    await use(storage);
    await storage.close();
  });
}

const dataOf = (ranges: HostRange[]) =>
  ranges.filter(({ hole }) => !hole).map(({ offset, length }) => [offset / BLOCK, length / BLOCK]);

test.serial('a huge file with few blocks of data is mapped exactly', async (t) => {
  const size = 4 * 1024 ** 4;
  const last = size / BLOCK - 1;
  await withSparseFile(size, [3, 4, 1000, 33_000_000, last], async (storage) => {
    const ranges = await wholeMap(storage, size);
    if (ranges.length === 1) {
      t.log('skipped: this file system tells no holes');
      return t.pass();
    }
    t.deepEqual(dataOf(ranges), [
      [3, 2],
      [1000, 1],
      [33_000_000, 1],
      [last, 1],
    ]);
  });
});

test.serial('holes at the end, and beyond it, are holes', async (t) => {
  await withSparseFile(10 * BLOCK, [0], async (storage) => {
    const ranges = await storage.holes(0, 20 * BLOCK);
    if (ranges[0].length !== BLOCK) {
      t.log('skipped: this file system tells no holes');
      return t.pass();
    }
    t.deepEqual(await wholeMap(storage, 20 * BLOCK), [
      { offset: 0, length: BLOCK, hole: false },
      { offset: BLOCK, length: 9 * BLOCK, hole: true },
      { offset: 10 * BLOCK, length: 10 * BLOCK, hole: true },
    ]);
    t.deepEqual(await storage.holes(12 * BLOCK, 5), [{ offset: 12 * BLOCK, length: 5, hole: true }]);
  });
});

test.serial('a fragmented file is told in many small lists', async (t) => {
  const blocks = Array.from({ length: 1500 }, (_, index) => index * 2);
  await withSparseFile(3000 * BLOCK, blocks, async (storage) => {
    t.true((await storage.holes(0, storage.size)).length <= 1100);
    const ranges = await wholeMap(storage, storage.size);
    if (ranges.length === 1) t.log('skipped: this file system tells no holes');
    else
      t.deepEqual(
        dataOf(ranges),
        blocks.map((block) => [block, 1]),
      );
  });
});

test.serial('without system calls everything is data', async (t) => {
  overrideSystemCalls(null);
  try {
    await withSparseFile(10 * BLOCK, [5], async (storage) => {
      t.deepEqual(await storage.holes(BLOCK, 4 * BLOCK), [{ offset: BLOCK, length: 4 * BLOCK, hole: false }]);
    });
  } finally {
    overrideSystemCalls(undefined);
  }
});
