import test from 'ava';
import type { ImageError } from '../../lib/core/errors.ts';
import { drivers } from '../../lib/formats/index.ts';
import { vhdx } from '../../lib/formats/vhdx.ts';
import type { Target } from '../../lib/sinks/target.ts';
import { openImage } from '../../lib/sources/open.ts';
import { faultyStorage, replayEvents, type StorageEvent } from '../../lib/storage/faulty.ts';
import { type MemoryStorage, memoryStorage } from '../../lib/storage/memory.ts';
import { sliceStorage } from '../../lib/storage/slice.ts';
import type { Storage } from '../../lib/storage/storage.ts';
import { WrappedStorage } from '../../lib/storage/wrapped.ts';
import { pattern } from '../support/model.ts';
import { createRequest, openRequest } from '../support/requests.ts';
import { batEntry, makeVhdx, seal, VHDX_PLACES, type VhdxLogEntry, WRITE_GUID } from '../support/vhdx.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const HEADERS = [64 * KIB, 128 * KIB];

async function openTarget(storage: Storage): Promise<Target> {
  return (await vhdx.openTarget?.(openRequest(storage, true))) as Target;
}

async function create(storage: Storage, size: number, options: Record<string, unknown> = {}): Promise<Target> {
  const values = { block_size: MIB, log_size: MIB, ...options } as Record<string, string | number | boolean>;
  return (await vhdx.create?.(createRequest(storage, size, values))) as Target;
}

async function contents(bytes: Buffer): Promise<Buffer> {
  const storage = memoryStorage('again', bytes);
  const image = await openImage('again', { drivers: drivers(), format: 'vhdx', storage });
  const disk = Buffer.alloc(image.chain.size, 0xee);
  await image.chain.read(0, disk);
  await image.close();
  return disk;
}

interface Header {
  sequence: bigint;
  fileWriteGuid: string;
  dataWriteGuid: string;
  logGuid: string;
}

/** The header with the highest sequence number. */
function current(bytes: Buffer): Header {
  const headers = HEADERS.map((at) => ({
    sequence: bytes.readBigUInt64LE(at + 8),
    fileWriteGuid: bytes.toString('hex', at + 16, at + 32),
    dataWriteGuid: bytes.toString('hex', at + 32, at + 48),
    logGuid: bytes.toString('hex', at + 48, at + 64),
  }));
  return headers[0].sequence > headers[1].sequence ? headers[0] : headers[1];
}

const NO_LOG = '0'.repeat(32);

function sound(): Buffer {
  return makeVhdx({ size: 3 * MIB, blocks: { 0: { state: 6, bytes: Buffer.alloc(MIB, 0x11) } } });
}

test('both GUIDs change once, before the first change, and nothing where nothing changes', async (t) => {
  const file = sound();
  const idle = memoryStorage('idle', file);
  await (await openTarget(idle)).close();
  t.true(idle.bytes().equals(file));
  const storage = memoryStorage('busy', file);
  const record: StorageEvent[] = [];
  const target = await openTarget(faultyStorage(storage, { record }));
  await target.write(5000, pattern(100, 1));
  const first = record[0];
  t.true(first.operation === 'write' && HEADERS.includes(first.offset));
  t.is(record[1].operation, 'flush');
  const during = current(storage.bytes());
  const before = current(file);
  t.not(during.fileWriteGuid, before.fileWriteGuid);
  t.not(during.dataWriteGuid, before.dataWriteGuid);
  await target.write(2 * MIB, pattern(100, 1));
  await target.close();
  const after = current(storage.bytes());
  t.is(after.fileWriteGuid, during.fileWriteGuid);
  t.is(after.dataWriteGuid, during.dataWriteGuid);
  t.is(after.logGuid, NO_LOG);
});

test('an entry of the BAT changes in the log first, and the log is flushed before its place is touched', async (t) => {
  const storage = memoryStorage('image', sound());
  const record: StorageEvent[] = [];
  const target = await openTarget(faultyStorage(storage, { record }));
  await target.write(2 * MIB + 100, pattern(9000, 3));
  await target.flush();
  const during = storage.bytes();
  t.not(current(during).logGuid, NO_LOG);
  const at = (offset: number, from = 0) =>
    record.findIndex((each, index) => index >= from && each.operation === 'write' && each.offset === offset);
  const data = record.findIndex((each) => each.operation === 'write' && each.offset >= VHDX_PLACES.blocks);
  const log = at(VHDX_PLACES.log);
  const bat = at(VHDX_PLACES.bat);
  const flushes = (from: number, to: number) =>
    record.slice(from, to).filter(({ operation }) => operation === 'flush').length;
  t.true(data >= 0 && data < log && log < bat);
  t.true(flushes(data, log) >= 1, 'the data before the log');
  t.true(flushes(log, bat) >= 2, 'the log before the header that names it, and that before the place');
  await target.close();
  t.is(current(storage.bytes()).logGuid, NO_LOG);
});

test('the log goes round and round, and whenever it ends what was flushed is there', async (t) => {
  const start = makeVhdx({ size: 700 * MIB });
  const record: StorageEvent[] = [];
  const target = await openTarget(faultyStorage(memoryStorage('image', start), { record }));
  /** How many events there were when each write had been flushed. */
  const flushed: number[] = [];
  // Blocks of both pages of the BAT in turn.
  const offsetOf = (round: number) => ((round * 547) % 700) * MIB;
  for (let round = 0; round < 180; round += 1) {
    await target.write(offsetOf(round), pattern(512, round));
    await target.flush();
    flushed.push(record.length);
  }
  await target.close();
  const isEntry = (each: StorageEvent) =>
    each.operation === 'write' && each.offset >= VHDX_PLACES.log && each.offset < VHDX_PLACES.log + MIB;
  const places = new Set(record.filter(isEntry).map((each) => ('offset' in each ? each.offset : 0)));
  t.true(places.size > 100 && places.size < 180, 'it came round');
  const memory = memoryStorage('crashed', start);
  for (let count = 0; count < record.length; count += 1) {
    await replayEvents(record.slice(count, count + 1), memory);
    if (count % 23 === 0) await checkFlushed(memory, flushed.filter((events) => events <= count + 1).length);
  }
  await checkFlushed(memory, 180);
  async function checkFlushed(storage: MemoryStorage, rounds: number): Promise<void> {
    const image = await openImage('crashed', { drivers: drivers(), format: 'vhdx', storage: again(storage) });
    const found = Buffer.alloc(512);
    for (let round = 0; round < rounds; round += 1) {
      await image.chain.read(offsetOf(round), found);
      if (!found.equals(pattern(512, round))) t.fail(`after ${rounds} rounds, round ${round} is not there`);
    }
    await image.close();
  }
});

/** The same storage, which whoever closes it leaves open. */
function again(storage: Storage): Storage {
  return new (class extends WrappedStorage {
    override async close(): Promise<void> {}
  })(storage);
}

/** All moments of a run that a crash can show: after each operation. */
async function eachCrash(start: Buffer, events: readonly StorageEvent[], look: (file: MemoryStorage) => Promise<void>) {
  for (let count = 0; count <= events.length; count += 1) {
    const memory = memoryStorage('crashed', start);
    await replayEvents(events.slice(0, count), memory);
    await look(memory);
  }
}

/** Both blocks lie in the file; the log makes the BAT know them. */
function dirty(): Buffer {
  const bat = Buffer.alloc(4096);
  batEntry(6, VHDX_PLACES.blocks).copy(bat);
  batEntry(6, VHDX_PLACES.blocks + MIB).copy(bat, 8);
  const log: VhdxLogEntry[] = [
    { place: 0, sequence: 4n, updates: [{ offset: VHDX_PLACES.bat, zeros: 4096 }] },
    { place: 4096, tail: 0, sequence: 5n, updates: [{ offset: VHDX_PLACES.bat, bytes: bat }], lastSize: 9 * MIB },
  ];
  const block = (fill: number) => ({ state: 6, bytes: Buffer.alloc(MIB, fill) });
  const file = makeVhdx({ size: 3 * MIB, blocks: { 0: block(0x11), 1: block(0x22) }, log });
  file.fill(0, VHDX_PLACES.bat, VHDX_PLACES.bat + 16);
  return file;
}

test('a log is replayed into the file before it is written to, and an interruption lets that be done again', async (t) => {
  const start = dirty();
  const disk = Buffer.alloc(3 * MIB, 0x11);
  disk.fill(0x22, MIB).fill(0, 2 * MIB);
  const record: StorageEvent[] = [];
  const storage = memoryStorage('dirty', start);
  const target = await openTarget(faultyStorage(storage, { record }));
  t.is(current(storage.bytes()).logGuid, NO_LOG);
  t.is(storage.size, 9 * MIB);
  t.true(record.length > 5);
  await eachCrash(start, record, async (memory) => void t.true((await contents(memory.bytes())).equals(disk)));
  await target.write(2 * MIB, pattern(MIB, 6));
  await target.close();
  pattern(MIB, 6).copy(disk, 2 * MIB);
  t.true((await contents(storage.bytes())).equals(disk));
});

test('a disk that grows gets entries in its BAT before its size is told, through the log; one that shrinks loses its end', async (t) => {
  const start = sound();
  const storage = memoryStorage('image', start);
  const record: StorageEvent[] = [];
  const target = await openTarget(faultyStorage(storage, { record }));
  await target.truncate?.(900 * MIB + 512);
  t.is(target.size, 900 * MIB + 512);
  await target.write(900 * MIB, pattern(512, 2));
  await target.truncate?.(MIB + 512);
  await target.close();
  const disk = Buffer.alloc(MIB + 512);
  disk.fill(0x11, 0, MIB);
  t.true((await contents(storage.bytes())).equals(disk));
  for (const count of [1, 3, 5, 7, 9, 11]) {
    const memory = memoryStorage('crashed', start);
    await replayEvents(record.slice(0, count), memory);
    const image = await openImage('crashed', { drivers: drivers(), format: 'vhdx', storage: memory });
    t.true([3 * MIB, 900 * MIB + 512].includes(image.chain.size));
    const found = Buffer.alloc(3 * MIB);
    await image.chain.read(0, found);
    t.true(found.subarray(0, MIB).equals(disk.subarray(0, MIB)));
    await image.close();
  }
});

test('a new disk without a size can grow, and in the end has a BAT for what it became', async (t) => {
  const storage = memoryStorage('new');
  const target = await create(again(storage), 0);
  // More than a BAT of one mebibyte has room for.
  await target.truncate?.(2 ** 38);
  t.is(target.size, 2 ** 38);
  await target.truncate?.(700 * MIB);
  await target.write(699 * MIB, pattern(MIB, 3));
  await target.close();
  const image = await openImage('new', { drivers: drivers(), format: 'vhdx', storage: again(storage) });
  t.is(image.chain.size, 700 * MIB);
  const found = Buffer.alloc(2 * MIB);
  await image.chain.read(698 * MIB, found);
  t.true(found.equals(Buffer.concat([Buffer.alloc(MIB), pattern(MIB, 3)])));
  await image.close();
  const table = Buffer.alloc(64 * KIB);
  await storage.read(192 * KIB, table);
  t.is(table.readUInt32LE(16 + 24), MIB);
});

test('a disk for which the BAT has no room is refused, and stays as it is', async (t) => {
  const storage = memoryStorage('image', sound());
  const target = await openTarget(storage);
  const error = await t.throwsAsync(async () => target.truncate?.(2 ** 40), { message: /has no room/ });
  t.is((error as ImageError).kind, 'no-space');
  t.is(target.size, 3 * MIB);
  await target.close();
  t.is((await contents(storage.bytes())).length, 3 * MIB);
});

test('a fixed disk has all its blocks from the start, and the file never grows', async (t) => {
  const storage = memoryStorage('fixed');
  const target = await create(storage, 5 * MIB + 512, { subformat: 'fixed' });
  const { size } = storage;
  await target.write(0, pattern(3 * MIB, 5));
  await target.zero(MIB, MIB, { unmap: true });
  await target.write(5 * MIB, pattern(512, 7));
  await target.close();
  t.is(storage.size, size);
  const disk = Buffer.alloc(5 * MIB + 512);
  pattern(3 * MIB, 5).copy(disk);
  disk.fill(0, MIB, 2 * MIB);
  pattern(512, 7).copy(disk, 5 * MIB);
  t.true((await contents(storage.bytes())).equals(disk));
});

test('on a device, whose end says nothing and whose space is not blank, images are made and written to just so', async (t) => {
  for (const subformat of ['dynamic', 'fixed']) {
    const memory = memoryStorage('device', Buffer.alloc(20 * MIB, 0xdd));
    const device = () => sliceStorage(again(memory), { offset: 0, size: 20 * MIB });
    const disk = Buffer.alloc(5 * MIB);
    const made = await create(device(), 5 * MIB, { subformat });
    await made.write(MIB + 1000, pattern(2000, 1));
    pattern(2000, 1).copy(disk, MIB + 1000);
    await made.close();
    const target = await openTarget(device());
    for (const offset of [3 * MIB + 77, 0]) {
      await target.write(offset, pattern(5000, 2));
      pattern(5000, 2).copy(disk, offset);
    }
    await target.close();
    t.is(memory.size, 20 * MIB);
    t.true((await contents(memory.bytes())).equals(disk), subformat);
  }
  const small = sliceStorage(memoryStorage('small', Buffer.alloc(10 * MIB)), { offset: 0, size: 10 * MIB });
  const full = await create(small, 5 * MIB);
  const error = await t.throwsAsync(full.write(0, pattern(5 * MIB, 1)), { message: /No space left on device/ });
  t.is((error as ImageError).kind, 'no-space');
  await full.abort();
});

test('a differencing disk is refused for writing, and stays as it is', async (t) => {
  const file = makeVhdx({ size: MIB, parent: { linkage: WRITE_GUID, paths: { relative_path: 'parent.vhdx' } } });
  const storage = memoryStorage('child', file);
  const error = await t.throwsAsync(openTarget(storage), { name: 'ImageError', message: /can be read only/ });
  t.is((error as ImageError).kind, 'unsupported');
  t.true(storage.bytes().equals(file));
});

test('files whose next block would hit another, or whose headers have no numbers left, are refused for writing', async (t) => {
  const beyond = sound();
  batEntry(6, 64 * MIB).copy(beyond, VHDX_PLACES.bat + 8);
  await t.throwsAsync(openTarget(memoryStorage('beyond', beyond)), { message: /past the end of the file/ });
  const last = sound();
  last.writeBigUInt64LE(2n ** 64n - 1n, HEADERS[0] + 8);
  seal(last, HEADERS[0], 4096);
  await t.throwsAsync(openTarget(memoryStorage('last', last)), { message: /no sequence numbers left/ });
});

test('wrong options of a new image are refused in words of qemu-img, before the file is touched', async (t) => {
  const bytes = pattern(1000, 1);
  const storage = memoryStorage('there', bytes);
  const cases: [Record<string, unknown>, number, string][] = [
    [{ block_size: 3 * MIB }, MIB, 'Block size must be a power of two'],
    [{ log_size: 0 }, MIB, 'Log size must be a multiple of 1 MB'],
    [{ log_size: 4096 * MIB - 1 }, MIB, 'Log size must be smaller than 4 GB'],
    [{ subformat: 'Dynamic' }, MIB, "Parameter 'subformat' does not accept value 'Dynamic'"],
    [{}, 64 * 2 ** 40 + 512, 'Image size too large; max of 64TB'],
  ];
  for (const [options, size, message] of cases) {
    await t.throwsAsync(create(storage, size, options), { name: 'ImageError', message });
  }
  t.true(storage.bytes().equals(bytes));
});
