import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { createImage } from '../../../lib/formats/create.ts';
import { vpc } from '../../../lib/formats/vpc.ts';
import { convert } from '../../../lib/index.ts';
import type { Target } from '../../../lib/sinks/target.ts';
import { type MemoryStorage, memoryStorage } from '../../../lib/storage/memory.ts';
import type { Storage } from '../../../lib/storage/storage.ts';
import { DiskModel, pattern, Random } from '../../support/model.ts';
import { openRequest } from '../../support/requests.ts';
import { withTmpDir } from '../../support/tmp.ts';
import { makeVhd, utf16 } from '../../support/vpc-images.ts';

const MIB = 1024 * 1024;
const BLOCK = 2 * MIB;

async function openOn(storage: Storage): Promise<Target> {
  return (await vpc.openTarget?.(openRequest(storage, true))) as Target;
}

async function readOn(storage: MemoryStorage): Promise<Buffer> {
  const again = memoryStorage('again', storage.bytes());
  const source = await vpc.openSource(openRequest(again, false));
  const found = Buffer.alloc(source.size);
  await source.read(0, found);
  return found;
}

test('writing to a block marks all of its sectors, so that readers who heed the bitmap see it', async (t) => {
  const disk = pattern(5 * MIB, 1);
  // Of the first block one sector only is there, and the others are zeros, as Hyper-V leaves them.
  const model = new DiskModel(disk.length, disk);
  model.zero(0, BLOCK);
  model.write(512, disk.subarray(512, 1024));
  const image = makeVhd({ disk, present: (sector) => sector === 1 || sector >= BLOCK / 512 });
  const storage = memoryStorage('image', image);
  const first = 2048;
  t.is(image[first], 0x40);
  const target = await openOn(storage);
  for (const offset of [100_000, 200_000]) {
    await target.write(offset, pattern(5000, 3));
    model.write(offset, pattern(5000, 3));
  }
  await target.close();
  t.true(
    storage
      .bytes()
      .subarray(first, first + 512)
      .equals(Buffer.alloc(512, 0xff)),
  );
  t.is(model.mismatch(0, await readOn(storage)), -1);
});

test('blocks are appended where the footer was, and behind all there is where none is found', async (t) => {
  const disk = Buffer.alloc(9 * MIB);
  pattern(MIB, 1).copy(disk, 3 * MIB);
  const image = makeVhd({ disk });
  const junk = pattern(700, 5);
  const cases = [
    { what: 'sound', bytes: image, at: image.length - 512 },
    { what: 'without its last footer', bytes: image.subarray(0, -512), at: image.length - 512 },
    { what: 'its last footer cut off', bytes: image.subarray(0, -1), at: image.length - 512 },
    { what: 'with something behind it', bytes: Buffer.concat([image, junk]), at: image.length + 1024 },
  ];
  for (const { what, bytes, at } of cases) {
    const storage = memoryStorage('image', bytes);
    const target = await openOn(storage);
    await target.write(7 * MIB, pattern(3000, 9));
    await target.close();
    const after = storage.bytes();
    t.is(after.readUInt32BE(1536 + 4 * 3) * 512, at, what);
    t.is(after.length, at + 512 + BLOCK + 512, what);
    t.true(after.subarray(-512).equals(after.subarray(0, 512)), what);
    if (what.startsWith('with something')) t.true(after.subarray(image.length, image.length + 700).equals(junk));
    const model = new DiskModel(disk.length, disk);
    model.write(7 * MIB, pattern(3000, 9));
    t.is(model.mismatch(0, await readOn(storage)), -1, what);
  }
});

test('an image whose table says that a block lies in its head is not written to', async (t) => {
  const image = makeVhd({ disk: pattern(5 * MIB, 1) });
  for (const entry of [0, 1, 3]) {
    const bytes = Buffer.from(image);
    bytes.writeUInt32BE(entry, 1536);
    const storage = memoryStorage('image', bytes);
    const target = await openOn(storage);
    await t.throwsAsync(target.write(0, pattern(512, 2)), { name: 'ImageError', message: /own metadata/ });
    await target.write(3 * MIB, pattern(512, 2));
    await target.close();
    t.true(storage.bytes().subarray(0, 1536).equals(bytes.subarray(0, 1536)));
  }
});

test('what is like no disk that anybody makes is refused for writing, and stays as it was', async (t) => {
  const disk = pattern(4 * MIB, 1);
  const parent = { uniqueId: Buffer.alloc(16), locators: [['W2ru', utf16('x')]] as const };
  const unaligned = makeVhd({ disk });
  unaligned.writeUInt32BE(1537, 512 + 20);
  const large = makeVhd({ disk: disk.subarray(0, 512), blockSize: 512 });
  large.writeUInt32BE(2 ** 30, 512 + 32);
  large.writeUInt32BE(0xffff_ffff, 1536);
  for (const [image, message] of [
    [makeVhd({ disk, parent }), /Differencing disks/],
    [unaligned, /not aligned/],
    [large, /Blocks of 1073741824 bytes/],
  ] as const) {
    const storage = memoryStorage('image', image);
    await t.throwsAsync(openOn(storage), { name: 'ImageError', message });
    t.true(storage.bytes().equals(image));
  }
});

test('a new disk can grow and shrink while it is written, at any time', async (t) => {
  for (const seed of [1, 2, 3, 4, 5]) {
    const random = new Random(seed);
    const storage = memoryStorage('image');
    const options = { force_size: 'on', subformat: seed % 2 === 0 ? 'fixed' : 'dynamic' };
    // The first growth finds the image empty, or not.
    let size = seed > 2 ? 0 : 512 * random.below(9000);
    const target = await createImage({ filename: 'image', format: 'vpc', size, options, storage });
    let bytes = Buffer.alloc(size);
    for (let round = 0; round < 12; round += 1) {
      const before = random.below(size + 1);
      const early = pattern(Math.min(size - before, 300_000), round);
      const working = target.write(before, early);
      early.copy(bytes, before);
      await working;
      size = 512 * random.below(random.pick([2, 9000, 20_000]));
      await target.truncate?.(size);
      t.is(target.size, size);
      const next = Buffer.alloc(size);
      bytes.copy(next);
      bytes = next;
    }
    await target.close();
    t.is(new DiskModel(size, bytes).mismatch(0, await readOn(storage)), -1, `seed ${seed}`);
  }
});

test('runs of zeros in a block stay holes of the file', async (t) => {
  await withTmpDir(async (directory) => {
    const [raw, image] = [join(directory, 'raw'), join(directory, 'image')];
    const made = await createImage({ filename: raw, format: 'raw', size: 40 * MIB, options: {} });
    for (let at = 0; at < 40 * MIB; at += BLOCK) await made.write(at, pattern(4096, 1));
    await made.close();
    await convert({ inputs: [{ filename: raw, format: 'raw' }], output: { filename: image }, outputFormat: 'vpc' });
    const { size, blocks } = await stat(image);
    t.true(size > 40 * MIB);
    t.true(blocks * 512 < 2 * MIB, `${blocks * 512} bytes`);
  });
});
