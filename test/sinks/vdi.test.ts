import test from 'ava';
import { BLOCK_DISCARDED, BLOCK_UNALLOCATED, hasVdiSignature, isAllocated, VDI_BLOCK } from '../../lib/layouts/vdi.ts';
import { createVdi, openVdiTarget } from '../../lib/sinks/vdi/index.ts';
import { UsedBlocks } from '../../lib/sinks/vdi/used-blocks.ts';
import { createGate } from '../../lib/sources/gate.ts';
import { openVdi } from '../../lib/sources/vdi/index.ts';
import { faultyStorage, replayEvents, type StorageEvent } from '../../lib/storage/faulty.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import type { Storage } from '../../lib/storage/storage.ts';
import { garbageDevice } from '../support/garbage-device.ts';
import { Random } from '../support/model.ts';

const MAP = 512;
const COUNT_AT = 0x184;
const BLOCKS = 6;

function request(storage: Storage) {
  return { storage, options: {}, writable: true, cache: 'unsafe', gate: createGate() } as const;
}

/** An image of six blocks whose block map says `entries`, and whose block n in the file holds n + 1 everywhere. */
async function imageOf(entries: readonly number[], { count = 0, inFile = BLOCKS } = {}): Promise<Buffer> {
  const storage = memoryStorage('x');
  const target = await createVdi({ storage, size: BLOCKS * VDI_BLOCK, options: {} });
  for (let block = 0; block < inFile; block += 1) {
    await target.write(block * VDI_BLOCK, Buffer.alloc(VDI_BLOCK, block + 1));
  }
  await target.close();
  const bytes = storage.bytes();
  for (const [block, entry] of entries.entries()) bytes.writeUInt32LE(entry, MAP + block * 4);
  bytes.writeUInt32LE(count, COUNT_AT);
  return bytes;
}

function mapOf(bytes: Buffer): number[] {
  return Array.from({ length: BLOCKS }, (_, block) => bytes.readUInt32LE(MAP + block * 4));
}

/** The image after `writes` of one byte each at the beginning of these blocks. */
async function after(bytes: Buffer, writes: readonly number[]): Promise<Buffer> {
  const storage = memoryStorage('x', bytes);
  const target = await openVdiTarget(request(storage));
  for (const block of writes) await target.write(block * VDI_BLOCK, Buffer.from([0xee]));
  await target.close();
  return storage.bytes();
}

const NONE = BLOCK_UNALLOCATED;

test('new blocks take the numbers that no other has, and the count is made right', async (t) => {
  // Numbers 1 and 3 were lost, and the count is wrong.
  const bytes = await imageOf([4, NONE, 0, NONE, 2, BLOCK_DISCARDED], { count: 99 });
  const found = await after(bytes, [1, 3, 5]);
  t.deepEqual(mapOf(found), [4, 1, 0, 3, 2, 5]);
  t.is(found.readUInt32LE(COUNT_AT), 6);
});

test('what lay in a lost block does not show up in a new one', async (t) => {
  const bytes = await imageOf([4, NONE, 0, NONE, 2, NONE], { count: 5 });
  const storage = memoryStorage('x', await after(bytes, [1]));
  const source = await openVdi(request(storage));
  const block = Buffer.alloc(VDI_BLOCK, 1);
  await source.read(VDI_BLOCK, block);
  t.is(block[0], 0xee);
  t.true(block.subarray(1).equals(Buffer.alloc(VDI_BLOCK - 1)));
});

test("where two of the disk's blocks share one, new ones get a number of their own", async (t) => {
  const bytes = await imageOf([0, 0, 1, 2, 3, NONE], { count: 4 });
  t.deepEqual(mapOf(await after(bytes, [5])), [0, 0, 1, 2, 3, 4]);
});

test('a number above all blocks is read, and counted', async (t) => {
  // As QEMU leaves it when a lost block made it run out of numbers.
  const bytes = await imageOf([1, 0, 6, NONE, 2, 3], { count: 7 });
  const longer = Buffer.concat([bytes, Buffer.alloc(VDI_BLOCK, 7)]);
  const found = await after(longer, [3]);
  t.deepEqual(mapOf(found), [1, 0, 6, 4, 2, 3]);
  t.is(found.readUInt32LE(COUNT_AT), 7);
  const source = await openVdi(request(memoryStorage('x', found)));
  const block = Buffer.alloc(VDI_BLOCK);
  await source.read(2 * VDI_BLOCK, block);
  t.true(block.equals(Buffer.alloc(VDI_BLOCK, 7)));
});

test('an image to which nothing is written keeps every byte, wrong counts too', async (t) => {
  const bytes = await imageOf([4, NONE, 0, NONE, 2, NONE], { count: 99 });
  t.true((await after(bytes, [])).equals(bytes));
});

test('whatever of the last writes a crash loses, the count covers all blocks of the map', async (t) => {
  const bytes = await imageOf([0, NONE, NONE, NONE, NONE, NONE], { count: 1, inFile: 1 });
  const record: StorageEvent[] = [];
  const target = await openVdiTarget(request(faultyStorage(memoryStorage('x', bytes), { record })));
  for (const block of [5, 2, 3]) {
    await target.write(block * VDI_BLOCK + 7, Buffer.alloc(100, block));
    if (block === 2) await target.flush();
  }
  await target.close();
  const random = new Random(1);
  for (let events = 0; events <= record.length; events += 1) {
    for (let round = 0; round < 4; round += 1) {
      const flushed = record.slice(0, events).findLastIndex(({ operation }) => operation === 'flush');
      const kept = record.slice(0, events).filter((_, index) => index <= flushed || random.below(2) === 0);
      const crashed = memoryStorage('x', bytes);
      await replayEvents(kept, crashed);
      const left = crashed.bytes();
      const highest = Math.max(...mapOf(left).filter(isAllocated));
      t.true(left.readUInt32LE(COUNT_AT) > highest, `${events} of ${record.length} events`);
    }
  }
});

test('blocks are taken together where they lie together, and can be given back', (t) => {
  const used = new UsedBlocks(10);
  used.add(2);
  t.deepEqual(used.take(5), { first: 0, blocks: 2 });
  t.deepEqual(used.take(5), { first: 3, blocks: 5 });
  t.is(used.top, 8);
  used.giveBack(4, 4);
  t.is(used.top, 4);
  used.giveBack(0, 1);
  t.deepEqual(used.take(3), { first: 0, blocks: 1 });
  t.deepEqual(used.take(100), { first: 4, blocks: 6 });
});

test('on a device, what was there before does not show up, and a static image is not taken for zeros', async (t) => {
  for (const isStatic of [false, true]) {
    const device = garbageDevice(8 * VDI_BLOCK);
    const target = await createVdi({ storage: device, size: 3 * VDI_BLOCK, options: { static: isStatic } });
    t.is(target.readsAsZero, !isStatic);
    await target.write(VDI_BLOCK + 1000, Buffer.alloc(100, 7));
    if (isStatic) await target.zero(0, VDI_BLOCK);
    t.false(hasVdiSignature(device.bytes()));
    await target.close();
    const source = await openVdi(request(device));
    const found = Buffer.alloc(isStatic ? VDI_BLOCK : 3 * VDI_BLOCK);
    await source.read(0, found);
    const expected = Buffer.alloc(found.length);
    if (!isStatic) expected.fill(7, VDI_BLOCK + 1000, VDI_BLOCK + 1100);
    t.true(found.equals(expected));
  }
});

test('giving up on a device leaves no header, neither a new one nor the one before', async (t) => {
  const device = garbageDevice(4 * VDI_BLOCK);
  await (await createVdi({ storage: device, size: VDI_BLOCK, options: {} })).close();
  t.true(hasVdiSignature(device.bytes()));
  await (await createVdi({ storage: device, size: VDI_BLOCK, options: {} })).abort();
  t.false(hasVdiSignature(device.bytes()));
});
