import test from 'ava';
import { ImageError } from '../../../lib/core/errors.ts';
import { parallels } from '../../../lib/formats/parallels.ts';
import type { Target } from '../../../lib/sinks/target.ts';
import { createGate } from '../../../lib/sources/gate.ts';
import {
  type DirtyRange,
  dirtyRanges,
  readBitmaps,
  readParallelsHeader,
} from '../../../lib/sources/parallels/index.ts';
import { memoryStorage } from '../../../lib/storage/memory.ts';
import { Random } from '../../support/model.ts';
import { fieldMutations, randomMutations } from '../../support/mutate.ts';
import { BITMAP_FEATURE, bitmapData, feature, sealExtension, withExtension } from '../../support/parallels-images.ts';

const CLUSTER = 512;
const SECTOR = 512;
/** A bit for each sector of the disk fills some clusters. */
const SECTORS = 3 * CLUSTER * 8 + 1000;

async function imageBytes(): Promise<Buffer> {
  const storage = memoryStorage('image');
  storage.close = async () => {};
  const request = { storage, size: SECTORS * SECTOR, options: { cluster_size: CLUSTER }, backing: null } as const;
  const target = (await parallels.create?.({ ...request, cache: 'writeback', gate: createGate() })) as Target;
  await target.close();
  return storage.bytes();
}

/** Bits 0 to 15 of these bytes' start, the last bit, and every other one in the middle. */
function bits(): Buffer {
  const bytes = Buffer.alloc(CLUSTER);
  bytes.fill(0xff, 0, 2);
  bytes[100] = 0x55;
  bytes[CLUSTER - 1] = 0x80;
  return bytes;
}

function joined(ranges: readonly DirtyRange[]): [number, number][] {
  const found: [number, number][] = [];
  for (const { offset, length } of ranges) {
    const last = found.at(-1);
    if (last !== undefined && last[0] + last[1] === offset / SECTOR) last[1] += length / SECTOR;
    else found.push([offset / SECTOR, length / SECTOR]);
  }
  return found;
}

async function read(bytes: Buffer) {
  const storage = memoryStorage('image', bytes);
  const header = await readParallelsHeader(storage);
  const bitmaps = await readBitmaps(storage, header);
  const ranges = [];
  for (const bitmap of bitmaps) {
    const found: DirtyRange[] = [];
    for await (const range of dirtyRanges(storage, header, bitmap)) found.push(range);
    ranges.push(joined(found));
  }
  return { bitmaps, ranges };
}

/** An image with two bitmaps: clean, dirty and mixed clusters of bits; and one bit for all but the last sectors. */
async function withBitmaps(): Promise<Buffer> {
  const image = await imageBytes();
  const place = BigInt(image.length / SECTOR + 1);
  return withExtension(
    image,
    [
      feature(BITMAP_FEATURE, bitmapData({ sectors: SECTORS, granularity: 1, clusters: [0n, place, 1n, place] })),
      feature(BITMAP_FEATURE, bitmapData({ sectors: SECTORS, granularity: 8192, clusters: [1n], id: 255 })),
    ],
    [bits()],
  );
}

test('dirty bitmaps are read: clean and dirty clusters of bits, mixed ones, and a last one that is not full', async (t) => {
  const { bitmaps, ranges } = await read(await withBitmaps());
  t.deepEqual(
    bitmaps.map(({ id, granularity }) => [id, granularity]),
    [
      ['07070707-0707-0707-0707-070707070707', 1],
      ['ffffffff-ffff-ffff-ffff-ffffffffffff', 8192],
    ],
  );
  const cluster = CLUSTER * 8;
  const mixed = (start: number): [number, number][] => [
    [start, 16],
    [start + 800, 1],
    [start + 802, 1],
    [start + 804, 1],
    [start + 806, 1],
  ];
  t.deepEqual(ranges[0], [...mixed(cluster), [2 * cluster - 1, 1 + cluster + 16], ...mixed(3 * cluster).slice(1)]);
  t.deepEqual(ranges[1], [[0, SECTORS]]);
});

test('an image without an extension has no bitmaps', async (t) => {
  t.deepEqual((await read(await imageBytes())).bitmaps, []);
});

test('a bitmap past the end of the file is told when it is read', async (t) => {
  const clusters = [0n, 2n ** 55n, 1n, 1n];
  const recipe = bitmapData({ sectors: SECTORS, granularity: 1, clusters });
  const bytes = withExtension(await imageBytes(), [feature(BITMAP_FEATURE, recipe)]);
  await t.throwsAsync(read(bytes), { name: 'ImageError', message: /past the end of the file/ });
});

test('an extension spoilt anywhere, its checksum made right again, gives bitmaps or clear errors', async (t) => {
  const bytes = await withBitmaps();
  const start = Number(bytes.readBigUInt64LE(56)) * SECTOR;
  const fields = Array.from({ length: 40 }, (_, index) => ({
    name: `at ${24 + index * 4}`,
    offset: start + 24 + index * 4,
    width: 4 as const,
    little: true,
  }));
  const regions = [{ name: 'extension', offset: start, length: 300 }];
  const mutations = [...fieldMutations(bytes, fields), ...randomMutations(new Random(6), regions, 1500)];
  let refused = 0;
  for (const { name, apply } of mutations) {
    const spoilt = sealExtension(apply(Buffer.from(bytes)));
    try {
      await read(spoilt);
    } catch (error) {
      if (!(error instanceof ImageError)) t.fail(`${name}: ${(error as Error).stack}`);
      refused += 1;
    }
  }
  t.true(refused > mutations.length / 3, `${refused} of ${mutations.length} refused`);
});
