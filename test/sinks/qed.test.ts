import test from 'ava';
import { qed } from '../../lib/formats/qed.ts';
import { decodeQedHeader, encodeQedHeader, Feature, longestDisk, type QedHeader } from '../../lib/layouts/qed/index.ts';
import type { Target } from '../../lib/sinks/target.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import type { Storage } from '../../lib/storage/storage.ts';
import { pattern } from '../support/model.ts';
import { createRequest, openRequest } from '../support/requests.ts';

const KIB = 1024;
const CLUSTER = 4 * KIB;
const SIZE = 256 * KIB;
const L1 = CLUSTER;

/** A storage that stays open, so that its bytes can be looked at, and may be as long as a device. */
function device(bytes: Buffer): Storage & { bytes(): Buffer } {
  const storage = memoryStorage('device', bytes);
  return new Proxy(storage, {
    get(target, key) {
      if (key === 'fixedSize') return true;
      if (key === 'close') return async () => {};
      const value = Reflect.get(target, key, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  }) as never;
}

async function createOn(storage: Storage, size = SIZE): Promise<Target> {
  const options = { cluster_size: CLUSTER, table_size: 2 };
  return (await qed.create?.(createRequest(storage, size, options))) as Target;
}

async function openOn(storage: Storage): Promise<Target> {
  return (await qed.openTarget?.(openRequest(storage, true))) as Target;
}

/** An image with clusters 0 to 4 and 20 allocated; `spoil` may change it. */
async function imageBytes(spoil: (bytes: Buffer, l2: number) => void = () => {}): Promise<Buffer> {
  const storage = keptStorage();
  const target = await createOn(storage);
  await target.write(0, pattern(5 * CLUSTER, 1));
  await target.write(20 * CLUSTER, pattern(CLUSTER, 2));
  await target.close();
  const bytes = storage.bytes();
  spoil(bytes, Number(bytes.readBigUInt64LE(L1)));
  return bytes;
}

/** In memory, and readable after it was closed. */
function keptStorage(bytes?: Buffer) {
  const storage = memoryStorage('image', bytes);
  storage.close = async () => {};
  return storage;
}

function headerOf(bytes: Buffer): QedHeader {
  return decodeQedHeader(bytes.subarray(0, 64), bytes.length);
}

function changeHeader(bytes: Buffer, changes: Partial<QedHeader>): void {
  encodeQedHeader({ ...headerOf(bytes), ...changes }).copy(bytes);
}

test('the longest disk of a geometry is counted in 64 bits, as QEMU counts it', (t) => {
  t.is(longestDisk(65536, 4), 2n ** 46n);
  t.is(longestDisk(4096, 1), 2n ** 30n);
  t.is(longestDisk(2 ** 26, 16), 0n);
});

test('an image is marked while it is written to, and features that a writer does not know are dropped', async (t) => {
  const storage = keptStorage(await imageBytes((bytes) => changeHeader(bytes, { autoclear: 8n, compatible: 4n })));
  const target = await openOn(storage);
  t.is(headerOf(storage.bytes()).features, 0n, 'opening changes nothing');
  await target.write(100, pattern(10, 3));
  t.is(headerOf(storage.bytes()).features, Feature.needCheck);
  t.is(headerOf(storage.bytes()).autoclear, 0n);
  await target.close();
  t.is(headerOf(storage.bytes()).features, 0n);
  t.is(headerOf(storage.bytes()).compatible, 4n);
});

test('an image that is only opened for writing stays as it is', async (t) => {
  const bytes = await imageBytes();
  const storage = keptStorage(bytes);
  const target = await openOn(storage);
  await target.close();
  t.true(storage.bytes().equals(bytes));
});

test('a check makes entries that point nowhere unallocated, and clears the bit', async (t) => {
  const bytes = await imageBytes((image, l2) => {
    changeHeader(image, { features: Feature.needCheck });
    image.writeBigUInt64LE(2n ** 62n, l2 + 8);
    image.writeBigUInt64LE(BigInt(image.length), l2 + 16);
    image.writeBigUInt64LE(12345n, l2 + 8 * 20);
  });
  const storage = keptStorage(bytes);
  const target = await openOn(storage);
  const found = Buffer.alloc(SIZE);
  await target.source?.read(0, found);
  const expected = Buffer.alloc(SIZE);
  pattern(5 * CLUSTER, 1).copy(expected);
  expected.fill(0, CLUSTER, 3 * CLUSTER);
  t.true(found.equals(expected));
  await target.close();
  t.is(headerOf(storage.bytes()).features, 0n);
});

for (const [title, spoil] of Object.entries<(bytes: Buffer, l2: number) => void>({
  'two entries with one cluster': (bytes, l2) => bytes.copyWithin(l2, l2 + 8, l2 + 16),
  'a cluster in a table': (bytes, l2) => bytes.writeBigUInt64LE(BigInt(l2), l2),
  'a cluster in the L1 table': (bytes, l2) => bytes.writeBigUInt64LE(BigInt(L1), l2),
})) {
  test(`a check that finds ${title} refuses the image and leaves it alone`, async (t) => {
    const bytes = await imageBytes((image, l2) => {
      changeHeader(image, { features: Feature.needCheck });
      // This one could be repaired.
      image.writeBigUInt64LE(2n ** 40n, l2 + 8 * 20);
      spoil(image, l2);
    });
    const storage = keptStorage(bytes);
    await t.throwsAsync(openOn(storage), { name: 'ImageError', message: /used twice/ });
    t.true(storage.bytes().equals(bytes));
  });
}

test('an entry that points into a table is refused where no check is asked for, and the table stays', async (t) => {
  const bytes = await imageBytes((image, l2) => image.writeBigUInt64LE(BigInt(l2), l2));
  const storage = keptStorage(bytes);
  const target = await openOn(storage);
  await t.throwsAsync(target.write(0, pattern(CLUSTER, 9)), { name: 'ImageError', message: /lies in the tables/ });
  await t.throwsAsync(target.zero(0, CLUSTER), { name: 'ImageError', message: /lies in the tables/ });
  await target.write(20 * CLUSTER, pattern(CLUSTER, 9));
  await target.close();
  t.is(storage.bytes().compare(bytes, CLUSTER, 4 * CLUSTER, CLUSTER, 4 * CLUSTER), 0);
});

test('tables that overlap are refused', async (t) => {
  const bytes = await imageBytes((image) => {
    changeHeader(image, { size: 64 * 1024 * KIB });
    image.copy(image, L1 + 8, L1, L1 + 8);
  });
  await t.throwsAsync(openOn(keptStorage(bytes)), { name: 'ImageError', message: /overlap/ });
});

test('a new image gets longer and shorter, and shows nothing of what was cut off', async (t) => {
  const storage = keptStorage();
  const target = await createOn(storage, 0);
  // Beyond what one L1 entry covers.
  await target.truncate?.(64 * 1024 * KIB);
  await target.write(40 * 1024 * KIB, pattern(CLUSTER, 1));
  await target.truncate?.(8 * KIB);
  await target.truncate?.(64 * 1024 * KIB);
  const found = Buffer.alloc(CLUSTER, 1);
  await target.source?.read(40 * 1024 * KIB, found);
  t.true(found.equals(Buffer.alloc(CLUSTER)));
  await target.close();
  t.is(headerOf(storage.bytes()).size, 64 * 1024 * KIB);
});

test('an image that exists is not made shorter, nor longer than its tables reach', async (t) => {
  const bytes = await imageBytes();
  const storage = keptStorage(bytes);
  const target = await openOn(storage);
  await t.throwsAsync(async () => target.truncate?.(SIZE / 2), {
    message: /Shrinking images is currently not supported/,
  });
  await t.throwsAsync(async () => target.truncate?.(2 ** 40), { message: /QED image size must be/ });
  const found = Buffer.alloc(CLUSTER);
  await target.source?.read(20 * CLUSTER, found);
  t.true(found.equals(pattern(CLUSTER, 2)));
  await target.close();
  t.is(storage.bytes().compare(bytes, 64, bytes.length, 64, bytes.length), 0);
});

test('on a device new clusters lie behind those in use, and no further than its end', async (t) => {
  const bytes = await imageBytes();
  const room = 3 * CLUSTER;
  // What was on the device before.
  const storage = device(Buffer.concat([bytes, Buffer.alloc(room, 0xee)]));
  const target = await openOn(storage);
  await target.write(10 * CLUSTER + 100, pattern(100, 4));
  await target.write(12 * CLUSTER, pattern(2 * CLUSTER, 5));
  await t.throwsAsync(target.write(30 * CLUSTER, pattern(100, 4)), { name: 'ImageError', code: 'ENOSPC' });
  const found = Buffer.alloc(CLUSTER);
  await target.source?.read(10 * CLUSTER, found);
  const expected = Buffer.alloc(CLUSTER);
  pattern(100, 4).copy(expected, 100);
  t.true(found.equals(expected));
  await target.close();
});
