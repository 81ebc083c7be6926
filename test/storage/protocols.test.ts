import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { openStorage, registerProtocol, tuneNewFile } from '../../lib/storage/index.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { sliceStorage } from '../../lib/storage/slice.ts';
import { withTmpDir } from '../support/tmp.ts';
import { pattern } from './model.ts';

test('unknown protocols, drivers and options are refused in qemu-img’s words', async (t) => {
  const refusals: [Parameters<typeof openStorage>[0], string][] = [
    [{ driver: 'foo', filename: 'foo:bar' }, "Unknown protocol 'foo'"],
    [{ driver: 'foo', filename: 'bar' }, "Unknown driver 'foo'"],
    [{ driver: 'file' }, "The 'file' block driver requires a file name"],
    [{ driver: 'file', filename: 'x', foo: 1 }, "Block protocol 'file' doesn't support the option 'foo'"],
    [{ driver: 'null-co', filename: 'null-co://x' }, "The only allowed filename for this driver is 'null-co://'"],
    [{ driver: 'file', filename: 'x', aio: 'native' }, 'aio=native is not supported'],
    [{ driver: 'file', filename: 'x', locking: 'maybe' }, 'invalid parameter value: maybe'],
    [{ driver: 'file', filename: 'x', cache: { direct: 'maybe' } }, "Parameter 'direct' expects 'on' or 'off'"],
  ];
  for (const [spec, message] of refusals) {
    await t.throwsAsync(openStorage(spec), { instanceOf: ImageError, message });
  }
  await t.throwsAsync(openStorage({ driver: 'null-co' }, { create: true }), {
    message: "Protocol driver 'null-co' does not support image creation",
  });
});

test('a read-only node is not opened for writing', async (t) => {
  await withTmpDir(async (directory) => {
    const filename = join(directory, 'x');
    writeFileSync(filename, 'hello');
    const spec = { driver: 'file', filename, 'read-only': 'on' };
    await (await openStorage(spec)).close();
    await t.throwsAsync(openStorage(spec, { writable: true }), { message: 'Block node is read-only' });
  });
});

test('the null protocol is zeros of any size and keeps nothing', async (t) => {
  const storage = await openStorage({ driver: 'null-co', size: '1T', 'read-zeroes': 'on' }, { writable: true });
  t.is(storage.size, 1024 ** 4);
  await storage.write(5, pattern(10, 1));
  const bytes = pattern(20, 1);
  await storage.read(0, bytes);
  t.true(bytes.every((byte) => byte === 0));
  t.deepEqual(await storage.holes(0, 100), [{ offset: 0, length: 100, hole: true }]);
  await t.throwsAsync(storage.read(storage.size - 1, bytes), { instanceOf: ImageError });
  t.is((await openStorage({ driver: 'null-aio' })).size, 1024 ** 3);
});

test('a protocol of a user’s own is opened by its name', async (t) => {
  registerProtocol({
    name: 'mine',
    creates: false,
    open: async ({ filename = '' }) => memoryStorage(filename, Buffer.from('hello')),
  });
  const storage = await openStorage({ driver: 'mine', filename: 'mine:x' });
  t.is(storage.name, 'mine:x');
  t.is(storage.size, 5);
});

test('a slice is a window that nothing passes', async (t) => {
  const memory = memoryStorage('m', pattern(10_000, 1));
  const slice = sliceStorage(memory, { offset: 1000, size: 500 });
  const bytes = Buffer.alloc(500);
  await slice.read(0, bytes);
  t.true(bytes.equals(pattern(10_000, 1).subarray(1000, 1500)));
  await slice.write(490, Buffer.alloc(10));
  await slice.zero(0, 10);
  await t.throwsAsync(slice.write(491, Buffer.alloc(10)), {
    instanceOf: ImageError,
    message: 'The range lies beyond the end',
  });
  await t.throwsAsync(slice.read(0, Buffer.alloc(501)), { instanceOf: ImageError });
  await t.throwsAsync(slice.truncate(501), { instanceOf: ImageError });
  const wanted = pattern(10_000, 1).fill(0, 1000, 1010).fill(0, 1490, 1500);
  t.true(memory.bytes().equals(wanted));
  t.deepEqual(await slice.holes(400, 200), [{ offset: 400, length: 100, hole: false }]);
  t.deepEqual(await slice.holes(500, 7), [{ offset: 500, length: 7, hole: true }]);
});

test('files and slices of files copy among each other', async (t) => {
  await withTmpDir(async (directory) => {
    const [from, to] = [join(directory, 'from'), join(directory, 'to')];
    writeFileSync(from, pattern(100_000, 1));
    const source = sliceStorage(await openStorage({ driver: 'file', filename: from }), { offset: 500, size: 90_000 });
    const target = await openStorage({ driver: 'file', filename: to }, { create: true });
    const copied = await target.copyFrom(source, 100, 10, 50_000);
    await Promise.all([source.close(), target.close()]);
    if (copied === 0) {
      t.log('skipped: no copy_file_range here');
      return t.pass();
    }
    t.is(statSync(to).size, 50_010);
    t.true(readFileSync(to).subarray(10).equals(pattern(100_000, 1).subarray(600, 50_600)));
  });
});

test('an extent size hint that does not fit is refused, and other wishes never fail', async (t) => {
  await withTmpDir(async (directory) => {
    const storage = await openStorage({ driver: 'file', filename: join(directory, 'x') }, { create: true });
    await t.throwsAsync(tuneNewFile(storage, { extent_size_hint: 2 ** 32 }), {
      instanceOf: ImageError,
      message: 'Extent size hint is too large',
    });
    await tuneNewFile(storage, { extent_size_hint: 1 << 20, nocow: true });
    await tuneNewFile(memoryStorage('m'), {});
    await storage.close();
    t.pass();
  });
});
