import test from 'ava';
import { parallels } from '../../lib/formats/parallels.ts';
import { decodeParallelsHeader, InUse } from '../../lib/layouts/parallels/index.ts';
import type { Target } from '../../lib/sinks/target.ts';
import { type MemoryStorage, memoryStorage } from '../../lib/storage/memory.ts';
import type { Storage } from '../../lib/storage/storage.ts';
import { pattern } from '../support/model.ts';
import { asOldKind, BITMAP_FEATURE, bitmapData, feature, withExtension } from '../support/parallels-images.ts';
import { createRequest, openRequest } from '../support/requests.ts';

const KIB = 1024;
const CLUSTER = 4 * KIB;
const SIZE = 256 * KIB;
const SECTORS = SIZE / 512;

/** In memory, and readable after it was closed. */
function keptStorage(bytes?: Buffer): MemoryStorage {
  const storage = memoryStorage('image', bytes);
  storage.close = async () => {};
  return storage;
}

async function openOn(storage: Storage, options: Record<string, string | undefined> = {}): Promise<Target> {
  return (await parallels.openTarget?.(openRequest(storage, true, { options }))) as Target;
}

/** An image with clusters 0 to 4 and 20 allocated. */
async function imageBytes(): Promise<Buffer> {
  const storage = keptStorage();
  const target = (await parallels.create?.(createRequest(storage, SIZE, { cluster_size: CLUSTER }))) as Target;
  await target.write(0, pattern(5 * CLUSTER, 1));
  await target.write(20 * CLUSTER, pattern(CLUSTER, 2));
  await target.close();
  return storage.bytes();
}

function headerOf(storage: MemoryStorage) {
  return decodeParallelsHeader(storage.bytes().subarray(0, 64));
}

test('an image is in use while it is written to, no longer empty, and without what was said of its contents', async (t) => {
  const bitmap = feature(BITMAP_FEATURE, bitmapData({ sectors: SECTORS }));
  const bytes = withExtension(await imageBytes(), [bitmap]);
  bytes.writeUInt32LE(0xffff_ffff, 52);
  const storage = keptStorage(bytes);
  const target = await openOn(storage);
  t.true(storage.bytes().equals(bytes), 'opening changes nothing');
  await target.write(30 * CLUSTER, pattern(10, 3));
  t.like(headerOf(storage), { inUse: InUse.yes, extensionSector: 0, flags: 0xffff_fffe });
  await target.close();
  t.like(headerOf(storage), { inUse: InUse.no, extensionSector: 0 });
  // Neither extension nor bitmaps have become data.
  t.is(storage.bytes().compare(bytes, bytes.length - CLUSTER, bytes.length, bytes.length - CLUSTER, bytes.length), 0);
});

test('an image in use is not opened for writing', async (t) => {
  const bytes = await imageBytes();
  bytes.writeUInt32LE(InUse.yes, 44);
  await t.throwsAsync(openOn(keptStorage(bytes)), {
    name: 'ImageError',
    message: 'parallels: Image was not closed correctly; cannot be opened read/write',
  });
});

for (const flags of [1n, 2n]) {
  test(`features with the flags ${flags} bind a writer, who can't keep them; broken extensions don't`, async (t) => {
    const bytes = withExtension(await imageBytes(), [feature(99n, Buffer.alloc(16), { flags })]);
    const storage = keptStorage(bytes);
    await t.throwsAsync(openOn(storage), { name: 'ImageError', message: /must keep up to date/ });
    t.true(storage.bytes().equals(bytes));
    bytes[bytes.length - 1] ^= 1;
    const target = await openOn(keptStorage(bytes));
    await t.notThrowsAsync(target.close());
  });
}

test('a BAT that is cut off or too short is refused by a writer, a data area far away is not', async (t) => {
  const bytes = await imageBytes();
  for (const [offset, value, message] of [
    [32, 0xffff, /BAT is cut off/],
    [32, 10, /BAT is too short/],
    [48, 0xffff_ffff, null],
    [36, 0xffff, /BAT is too short/],
  ] as const) {
    const copy = Buffer.from(bytes);
    copy.writeUInt32LE(value, offset);
    const opened = openOn(keptStorage(copy));
    if (message === null) await t.notThrowsAsync(opened.then((target) => target.close()));
    else await t.throwsAsync(opened, { name: 'ImageError', message });
  }
});

test('new clusters lie behind all that the BAT refers to, also past the end of the file', async (t) => {
  const bytes = await imageBytes();
  bytes.writeUInt32LE(100, 64 + 4 * 40);
  const storage = keptStorage(bytes);
  const target = await openOn(storage);
  await target.write(50 * CLUSTER, pattern(CLUSTER, 3));
  await target.write(40 * CLUSTER, pattern(CLUSTER, 4));
  await target.close();
  const after = storage.bytes();
  t.is(after.readUInt32LE(64 + 4 * 40), 100);
  t.is(after.readUInt32LE(64 + 4 * 50), 101);
  t.true(after.subarray(100 * CLUSTER, 101 * CLUSTER).equals(pattern(CLUSTER, 4)));
  t.true(after.subarray(101 * CLUSTER, 102 * CLUSTER).equals(pattern(CLUSTER, 3)));
});

test('an old image ends where its entries can no longer tell a place', async (t) => {
  const bytes = asOldKind(await imageBytes());
  // The last cluster that 32 bits of sectors reach.
  bytes.writeUInt32LE(0xffff_fff8, 64 + 4 * 40);
  const target = await openOn(keptStorage(bytes));
  await t.throwsAsync(target.write(50 * CLUSTER, pattern(CLUSTER, 3)), { name: 'ImageError', code: 'ENOSPC' });
  await target.write(20 * CLUSTER, pattern(CLUSTER, 5));
  await target.close();
});

for (const mode of [undefined, 'falloc', 'truncate'] as const) {
  test(`with preallocation ${mode ?? 'of a size only'} the file grows ahead of the writes, and ends where it should`, async (t) => {
    const bytes = await imageBytes();
    const storage = keptStorage(bytes);
    const target = await openOn(storage, { 'prealloc-size': '64k', 'prealloc-mode': mode });
    await target.write(30 * CLUSTER + 10, pattern(10, 3));
    t.is(storage.size, bytes.length + 64 * KIB);
    await target.write(32 * CLUSTER, pattern(20 * CLUSTER, 4));
    const read = Buffer.alloc(CLUSTER);
    await target.source?.read(30 * CLUSTER, read);
    t.deepEqual(read.subarray(20), Buffer.alloc(CLUSTER - 20));
    await target.close();
    t.is(storage.size, bytes.length + 21 * CLUSTER);
  });
}

test('without these options the file is as long as what is in it', async (t) => {
  const bytes = await imageBytes();
  const storage = keptStorage(bytes);
  const target = await openOn(storage);
  await target.write(30 * CLUSTER, pattern(10, 3));
  t.is(storage.size, bytes.length + CLUSTER);
  await target.close();
});
