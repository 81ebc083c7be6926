import test from 'ava';
import { vmdk } from '../../../lib/formats/vmdk.ts';
import type { Target } from '../../../lib/sinks/target.ts';
import { memoryStorage } from '../../../lib/storage/memory.ts';
import { pattern, Random } from '../../support/model.ts';

const KIB = 1024;
const SECTOR = 512;
const GRAIN = 64 * KIB;
const SIZE = 100 * 1024 * KIB;

const gate = { openStorage: () => Promise.reject(new Error('nothing is to be opened')) };

async function create(options: Record<string, unknown>, data: readonly [number, Buffer][]): Promise<Buffer> {
  const storage = memoryStorage('image');
  const request = { storage, size: SIZE, options, backing: null, cache: 'unsafe', gate } as never;
  const target = (await vmdk.create?.(request)) as Target;
  for (const [offset, bytes] of data) await target.write(offset, bytes);
  await target.close();
  return storage.bytes();
}

async function edit(image: Buffer, work: (target: Target) => Promise<void>): Promise<Buffer> {
  const storage = memoryStorage('image', image);
  const request = { storage, options: {}, writable: true, cache: 'unsafe', gate, backing: null };
  const target = (await vmdk.openTarget?.(request as never)) as Target;
  await work(target);
  await target.close();
  return storage.bytes();
}

async function read(image: Buffer, offset: number, length: number): Promise<Buffer> {
  const request = { storage: memoryStorage('image', image), options: {}, writable: false, cache: 'unsafe', gate };
  const source = await vmdk.openSource(request as never);
  const bytes = Buffer.alloc(length);
  await source.read(offset, bytes);
  return bytes;
}

const cidOf = (image: Buffer) => /^CID=([0-9a-f]{8})$/m.exec(image.toString('latin1', 0, 4096))?.[1];

/** Where the directory and its copy lie, in bytes. */
function directories(image: Buffer): { own: number; copy: number } {
  return { own: image.readUInt32LE(56) * SECTOR, copy: image.readUInt32LE(48) * SECTOR };
}

test('the first change gives an image a new CID, looking at it does not', async (t) => {
  for (const subformat of ['monolithicSparse', 'streamOptimized']) {
    const image = await create({ subformat }, [[0, pattern(GRAIN, 1)]]);
    const before = cidOf(image);
    t.is(cidOf(await edit(image, async () => {})), before);
    const after = await edit(image, (target) => target.write(GRAIN, pattern(100, 2)));
    t.not(cidOf(after), undefined);
    t.not(cidOf(after), before);
  }
});

test('both copies of a grain table say the same after each change', async (t) => {
  const image = await create({}, [[0, pattern(GRAIN, 1)]]);
  const changed = await edit(image, async (target) => {
    await target.write(5 * GRAIN, pattern(3 * GRAIN, 2));
    await target.write(SIZE - GRAIN, pattern(GRAIN, 3));
  });
  const { own, copy } = directories(changed);
  for (let table = 0; table < 4; table += 1) {
    const [a, b] = [own, copy].map((at) => changed.readUInt32LE(at + table * 4) * SECTOR);
    t.not(a, b);
    t.true(changed.subarray(a, a + 2048).equals(changed.subarray(b, b + 2048)), `table ${table}`);
  }
  // So that the copies can stand in for each other.
  const swapped = Buffer.from(changed);
  swapped.writeUInt32LE(copy / SECTOR, 56);
  t.true((await read(swapped, 5 * GRAIN, 3 * GRAIN)).equals(pattern(3 * GRAIN, 2)));
});

test('a grain table that is missing is made, in both directories', async (t) => {
  const image = await create({}, [[0, pattern(GRAIN, 1)]]);
  const { own, copy } = directories(image);
  for (const at of [own, copy]) image.fill(0, at + 8, at + 12);
  const changed = await edit(image, (target) => target.write(2 * 512 * GRAIN + 100, pattern(5000, 4)));
  t.true((await read(changed, 2 * 512 * GRAIN + 100, 5000)).equals(pattern(5000, 4)));
  const tables = [own, copy].map((at) => changed.readUInt32LE(at + 8));
  t.true(tables.every((sector) => sector > 0));
  t.not(tables[0], tables[1]);
  t.true((await read(changed, 0, GRAIN)).equals(pattern(GRAIN, 1)));
});

test('a directory that points into the metadata is refused before anything is overwritten', async (t) => {
  const image = await create({}, [[0, pattern(GRAIN, 1)]]);
  const { own, copy } = directories(image);
  for (const [at, sector] of [
    [own, 1],
    [own, own / SECTOR],
    [copy, 1],
    [copy, copy / SECTOR],
  ]) {
    const bad = Buffer.from(image);
    bad.writeUInt32LE(sector, at);
    await t.throwsAsync(
      edit(bad, (target) => target.write(9 * GRAIN, pattern(10, 1))),
      { message: /overlaps/ },
      `${sector} at ${at}`,
    );
  }
});

test('a stream with a footer is written to: its header then tells where the directory is', async (t) => {
  const image = await create({ subformat: 'streamOptimized' }, [[0, pattern(3 * GRAIN, 1)]]);
  t.is(image.readBigUInt64LE(56), 2n ** 64n - 1n);
  const changed = await edit(image, async (target) => {
    await target.write(GRAIN + 7, pattern(100, 2));
    await target.write(SIZE - 70_000, pattern(70_000, 3));
  });
  t.true(changed.readBigUInt64LE(56) < 2n ** 32n);
  const expected = pattern(3 * GRAIN, 1);
  pattern(100, 2).copy(expected, GRAIN + 7);
  t.true((await read(changed, 0, 3 * GRAIN)).equals(expected));
  t.true((await read(changed, SIZE - 70_000, 70_000)).equals(pattern(70_000, 3)));
});

test('a grain that does not get smaller is kept all the same', async (t) => {
  const noise = new Random(9).bytes(GRAIN);
  const image = await create({ subformat: 'streamOptimized' }, [[GRAIN, noise]]);
  t.true((await read(image, GRAIN, GRAIN)).equals(noise));
});

test('an image of version 3 that is no stream is for reading only', async (t) => {
  const image = await create({}, [[0, pattern(GRAIN, 1)]]);
  image.writeUInt32LE(3, 4);
  await t.throwsAsync(
    edit(image, async () => {}),
    { message: 'VMDK version 3 must be read only' },
  );
  t.true((await read(image, 0, GRAIN)).equals(pattern(GRAIN, 1)));
});
