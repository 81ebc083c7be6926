import test from 'ava';
import { encodeCompressed } from '../../lib/layouts/qcow.ts';
import { createQcow, openQcowTarget } from '../../lib/sinks/qcow/index.ts';
import { createGate } from '../../lib/sources/gate.ts';
import { FirstTable, openQcow } from '../../lib/sources/qcow/index.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import type { Storage } from '../../lib/storage/storage.ts';
import { garbageDevice } from '../support/garbage-device.ts';
import { pattern } from '../support/model.ts';

const CLUSTER = 4096;
const L1 = 48;
const MIB = 1024 * 1024;

function request(storage: Storage) {
  return { storage, options: {}, writable: true, cache: 'unsafe', gate: createGate(), backing: null } as const;
}

/** An image of 4 MiB with three clusters at its beginning. */
async function threeClusters(): Promise<{ bytes: Buffer; l2: number }> {
  const storage = memoryStorage('x');
  const target = await createQcow({ storage, size: 4 * MIB, options: {}, backing: null });
  await target.write(0, pattern(3 * CLUSTER, 1));
  await target.close();
  const bytes = storage.bytes();
  return { bytes, l2: Number(bytes.readBigUInt64BE(L1)) };
}

async function readAt(bytes: Buffer, offset: number, length: number): Promise<Buffer> {
  const source = await openQcow(request(memoryStorage('x', bytes)));
  const found = Buffer.alloc(length, 0xaa);
  await source.read(offset, found);
  return found;
}

test('tables that point into the header, the L1 table or past the end are corrupt, for readers and for writers', async (t) => {
  const { bytes, l2 } = await threeClusters();
  const lies: [at: number, value: bigint, message: RegExp][] = [
    [L1, 8n, /in the header or the L1 table/],
    [L1, BigInt(L1), /in the header or the L1 table/],
    [L1, BigInt(bytes.length - CLUSTER + 512), /past the end/],
    [L1, 1n << 53n, /larger than any file/],
    [L1, (1n << 64n) - 1n, /larger than any file/],
    [l2, 1n, /unaligned/],
    [l2, BigInt(CLUSTER + 8), /unaligned/],
    [l2, 1n << 60n, /larger than any file/],
  ];
  for (const [at, value, message] of lies) {
    const spoilt = Buffer.from(bytes);
    spoilt.writeBigUInt64BE(value, at);
    await t.throwsAsync(readAt(spoilt, 0, CLUSTER), { name: 'ImageError', message }, `${at} ${value}`);
    const storage = memoryStorage('x', spoilt);
    const target = await openQcowTarget(request(storage));
    await t.throwsAsync(target.write(100, Buffer.alloc(10, 1)), { name: 'ImageError', message }, `${at} ${value}`);
    await target.abort();
    t.true(storage.bytes().equals(spoilt));
  }
});

test('clusters past the end are corrupt; compressed ones that are none as well', async (t) => {
  const { bytes, l2 } = await threeClusters();
  bytes.writeBigUInt64BE(BigInt(2 ** 40), l2);
  await t.throwsAsync(readAt(bytes, 0, 10), { message: /file ends before/ });
  for (const [host, packedLength] of [
    [l2, 100],
    [l2, 0],
    [2 ** 40, 100],
    [0, CLUSTER - 1],
  ]) {
    encodeCompressed(bytes, l2, { host, packedLength, clusterBits: 12 });
    await t.throwsAsync(readAt(bytes, 0, 10), { name: 'ImageError' }, `${host} ${packedLength}`);
  }
  // The others are what they were.
  t.true((await readAt(bytes, CLUSTER, CLUSTER)).equals(pattern(3 * CLUSTER, 1).subarray(CLUSTER, 2 * CLUSTER)));
});

test('a compressed cluster is written anew where a part of it changes', async (t) => {
  const storage = memoryStorage('x');
  const target = await createQcow({ storage, size: 4 * MIB, options: {}, backing: null });
  const plain = pattern(CLUSTER, 9);
  const packed = await target.compressor?.compress(plain);
  t.true(packed !== null && packed !== undefined && packed.length < CLUSTER / 4);
  await target.writeCompressed(0, CLUSTER, packed as Buffer);
  await target.writeCompressed(CLUSTER, CLUSTER, packed as Buffer);
  await target.write(100, Buffer.alloc(200, 0xee));
  await target.close();
  const expected = Buffer.concat([plain, plain]).fill(0xee, 100, 300);
  t.true((await readAt(storage.bytes(), 0, 2 * CLUSTER)).equals(expected));
});

test('parts of clusters are not written over a backing file that is not open', async (t) => {
  const storage = memoryStorage('x');
  const backing = { filename: 'base', source: null };
  const target = await createQcow({ storage, size: 4 * MIB, options: {}, backing });
  await target.write(0, Buffer.alloc(512, 1));
  await t.throwsAsync(target.write(1000, Buffer.alloc(100, 1)), { name: 'ImageError', message: /not open/ });
  await target.close();
  const source = await openQcow(request(memoryStorage('x', storage.bytes())));
  t.deepEqual(source.backing, { filename: 'base', format: null });
  t.is(source.granularity, 512);
});

test('the L1 table of a disk of 64 TiB is read in pieces, and takes the space of its entries', async (t) => {
  const storage = memoryStorage('x');
  storage.close = async () => {};
  const size = 2 ** 46;
  const target = await createQcow({ storage, size, options: {}, backing: null });
  await target.write(size - 100, Buffer.alloc(100, 5));
  await target.close();
  t.true(((await storage.allocatedBytes()) ?? 0) < MIB);
  const read = storage.read.bind(storage);
  let largest = 0;
  storage.read = (offset, buffer) => {
    largest = Math.max(largest, buffer.length);
    return read(offset, buffer);
  };
  const source = await openQcow(request(storage));
  const found = Buffer.alloc(200);
  await source.read(size - 200, found);
  t.true(found.equals(Buffer.concat([Buffer.alloc(100), Buffer.alloc(100, 5)])));
  t.true(largest <= 2 * MIB);
});

test('a table in memory keeps its entries, and writes what changed', async (t) => {
  const storage = memoryStorage('x');
  const table = new FirstTable(20_000);
  const set = (index: number, value: number) => table.set(index, (chunk, at) => chunk.writeUInt32BE(value, at + 4));
  set(0, 7);
  set(19_999, 8);
  t.true(table.changed);
  await storage.write(0, Buffer.alloc(48 + 160_000, 0xff));
  await table.write(storage, 48);
  t.false(table.changed);
  const bytes = storage.bytes();
  t.is(bytes.readUInt32BE(48 + 4), 7);
  t.is(bytes.readUInt32BE(48 + 19_999 * 8 + 4), 8);
  t.is(bytes.length, 48 + 160_000);
  // The chunk between them was not touched.
  t.is(bytes[48 + 8192 * 8], 0xff);
  const again = await FirstTable.read(memoryStorage('y', bytes.fill(0, 48 + 65_536, 48 + 131_072)), 48, 20_000);
  t.is(again.find(10_000), null);
  const found = again.find(19_999);
  t.is(found?.chunk.readUInt32BE(found.at + 4), 8);
});

test('on a device, what was there before does not show up', async (t) => {
  const device = garbageDevice(MIB);
  const target = await createQcow({ storage: device, size: 4 * MIB, options: {}, backing: null });
  t.true(target.readsAsZero);
  await target.write(CLUSTER + 1000, Buffer.alloc(100, 7));
  await target.close();
  const source = await openQcow(request(device));
  const found = Buffer.alloc(4 * MIB);
  await source.read(0, found);
  t.true(found.equals(Buffer.alloc(4 * MIB).fill(7, CLUSTER + 1000, CLUSTER + 1100)));
});
