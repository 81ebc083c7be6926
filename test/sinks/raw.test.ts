import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { raw } from '../../lib/formats/raw.ts';
import { createRaw, openRawTarget } from '../../lib/sinks/raw.ts';
import { streamRaw } from '../../lib/sinks/raw-stream.ts';
import { faultyStorage, type StorageEvent } from '../../lib/storage/faulty.ts';
import { openFile } from '../../lib/storage/file.ts';
import { openStorage } from '../../lib/storage/index.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { pattern } from '../storage/model.ts';
import { lacksSystemCalls } from '../storage/skip.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';

const newFile = (path: string) => openFile(path, { create: true });

test('a new disk gets its full length in close only', async (t) => {
  await withTmpDir(async (directory) => {
    for (const preallocation of ['off', 'falloc', 'full']) {
      const path = join(directory, preallocation);
      const target = await createRaw({ storage: await newFile(path), size: 3_000_000, options: { preallocation } });
      t.true(target.readsAsZero);
      t.is(target.size, 3_000_320);
      await target.write(5000, pattern(1000, 1));
      await target.zero(2_000_000, 1_000_000);
      await target.flush();
      t.true(statSync(path).size < 3_000_000);
      const bytes = Buffer.alloc(1000);
      await target.source?.read(2_999_320, bytes);
      t.true(bytes.equals(Buffer.alloc(1000)));
      await target.close();
      const wanted = Buffer.alloc(3_000_320);
      pattern(1000, 1).copy(wanted, 5000);
      t.true(readFileSync(path).equals(wanted), preallocation);
    }
  });
});

test('preallocated disks take the space that qemu-img’s take', async (t) => {
  if (await lacksSystemCalls(t)) return;
  const qemuImg = tool('qemu-img');
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    for (const preallocation of ['off', 'falloc', 'full']) {
      const [ours, theirs] = [join(directory, `ours-${preallocation}`), join(directory, `theirs-${preallocation}`)];
      const target = await createRaw({ storage: await newFile(ours), size: 5 << 20, options: { preallocation } });
      await target.close();
      qemuImg.expect(['create', '-f', 'raw', '-o', `preallocation=${preallocation}`, theirs, '5M']);
      t.is(statSync(ours).size, statSync(theirs).size);
      t.is(statSync(ours).blocks, statSync(theirs).blocks, preallocation);
      const map = (path: string) => qemuImg.expect(['map', '--output=json', '-f', 'raw', path]);
      t.is(map(ours), map(theirs), preallocation);
    }
  });
});

test('options that can’t be honoured are refused before the file is touched', async (t) => {
  await withTmpDir(async (directory) => {
    const path = join(directory, 'x');
    writeFileSync(path, 'precious');
    const refusals: [Record<string, unknown>, string][] = [
      [{ preallocation: 'metadata' }, 'Unsupported preallocation mode: metadata'],
      [{ preallocation: 'foo' }, 'invalid parameter value: foo'],
      [{ extent_size_hint: 2 ** 33 }, 'Extent size hint is too large'],
    ];
    for (const [options, message] of refusals) {
      const storage = await newFile(path);
      await t.throwsAsync(createRaw({ storage, size: 512, options }), { instanceOf: ImageError, message });
      await storage.close({ discard: true });
      t.is(readFileSync(path, 'utf8'), 'precious');
    }
  });
});

test('a disk of fixed size takes no larger one', async (t) => {
  const storage = await openStorage({ driver: 'null-co', size: 4096 }, { writable: true });
  await t.throwsAsync(createRaw({ storage, size: 8192, options: {} }), { message: 'Cannot grow device files' });
  await t.throwsAsync(createRaw({ storage, size: 512, options: { preallocation: 'full' } }), {
    message: "Unsupported preallocation mode 'full'",
  });
  const target = await createRaw({ storage, size: 512, options: {} });
  t.is(target.size, 512);
  t.false(target.readsAsZero);
  await target.close();
});

test('giving up removes a new file and empties one that was there', async (t) => {
  await withTmpDir(async (directory) => {
    const [made, found] = [join(directory, 'made'), join(directory, 'found')];
    writeFileSync(found, 'something');
    for (const path of [made, found]) {
      const target = await createRaw({ storage: await newFile(path), size: 1 << 20, options: {} });
      await target.write(0, pattern(1000, 1));
      await target.abort();
      await target.abort();
    }
    t.false(existsSync(made));
    t.is(statSync(found).size, 0);
  });
});

test('giving up leaves an image alone that was opened, not made', async (t) => {
  await withTmpDir(async (directory) => {
    const path = join(directory, 'x');
    writeFileSync(path, pattern(2048, 1));
    const target = await openRawTarget({ storage: await openFile(path, { writable: true }), options: {} });
    await target.write(0, pattern(512, 9));
    await target.abort();
    t.is(statSync(path).size, 2048);
  });
});

test('an existing disk is written in its window only, and resized', async (t) => {
  const memory = memoryStorage('m', pattern(10_240, 1));
  const cut = await openRawTarget({ storage: memory, options: { offset: '1k', size: '4k' } });
  t.is(cut.size, 4096);
  await cut.write(100, pattern(50, 9));
  await cut.zero(200, 50);
  await t.throwsAsync(cut.write(4090, Buffer.alloc(10)), { instanceOf: ImageError });
  await t.throwsAsync(cut.zero(4096, 1), { instanceOf: ImageError });
  await t.throwsAsync(async () => cut.truncate?.(8192), { message: 'Cannot resize fixed-size raw disks' });
  const wanted = pattern(10_240, 1);
  pattern(50, 9).copy(wanted, 1124);
  wanted.fill(0, 1224, 1274);
  t.true(memory.bytes().equals(wanted));
  const whole = await openRawTarget({ storage: memory, options: {} });
  await whole.truncate?.(1000);
  t.is(whole.size, 1024);
  t.is(memory.size, 1000);
  await whole.truncate?.(4096);
  t.is(memory.size, 4096);
});

test('a file’s bytes are copied to the disk inside the kernel', async (t) => {
  await withTmpDir(async (directory) => {
    writeFileSync(join(directory, 'from'), pattern(100_000, 1));
    const from = await openFile(join(directory, 'from'));
    const target = await createRaw({ storage: await newFile(join(directory, 'to')), size: 1 << 20, options: {} });
    const copied = await target.copyFrom?.(4096, from, 1000, 50_000);
    await target.close();
    await from.close();
    if (copied === 0) t.log('skipped: no copy_file_range here');
    else
      t.true(
        readFileSync(join(directory, 'to')).subarray(4096, 54_096).equals(pattern(100_000, 1).subarray(1000, 51_000)),
      );
    t.true(copied === 0 || copied === 50_000);
  });
});

test('a failing disk is never reported as a success', async (t) => {
  for (const operation of ['truncate', 'flush', 'close'] as const) {
    const storage = faultyStorage(memoryStorage('m'), { faults: [{ operation, nth: 1, code: 'EIO' }] });
    const target = await createRaw({ storage, size: 4096, options: {} });
    await target.write(0, pattern(100, 1));
    await t.throwsAsync(target.close(), { instanceOf: ImageError, code: 'EIO' });
  }
  const full = faultyStorage(memoryStorage('m'), { capacity: 1000 });
  await t.throwsAsync(createRaw({ storage: full, size: 1 << 20, options: { preallocation: 'full' } }), {
    code: 'ENOSPC',
  });
});

test('into a pipe, gaps and the end are filled with zeros', async (t) => {
  const record: StorageEvent[] = [];
  const memory = memoryStorage('m');
  const target = streamRaw(faultyStorage(memory, { record }), 300_000);
  t.true(target.sequential);
  // None is waited for: they go in the order of their calls.
  await Promise.all([
    target.write(10, pattern(100, 1)),
    target.zero(110, 50),
    target.write(200_000, pattern(100, 2)),
    target.zero(250_000, 10),
  ]);
  await t.throwsAsync(target.write(0, pattern(10, 1)), { instanceOf: ImageError });
  await t.throwsAsync(target.write(300_000, pattern(1000, 1)), { instanceOf: ImageError });
  await target.close();
  const wanted = Buffer.alloc(300_032);
  pattern(100, 1).copy(wanted, 10);
  pattern(100, 2).copy(wanted, 200_000);
  t.is(record.filter(({ operation }) => operation === 'truncate').length, 0);
  let end = 0;
  for (const event of record) {
    if (event.operation === 'flush' || event.operation === 'truncate') continue;
    t.is(event.offset, end);
    end += event.operation === 'write' ? event.data.length : event.length;
  }
  t.is(end, 300_032);
});

test('a disk of unknown size ends with the last byte that was written or zeroed', async (t) => {
  const storage = faultyStorage(memoryStorage('m'), { record: [] });
  const target = streamRaw(storage, null);
  await target.write(0, pattern(100, 1));
  await target.zero(100, 77);
  t.is(target.size, 177);
  await target.close();
  t.is(storage.size, 177);
});

test('a raw disk measures as its size, in whole sectors', async (t) => {
  const request = { options: {}, plan: null, hasBacking: false };
  t.deepEqual(await raw.measure?.({ size: 1000, ...request }), { required: 1024, fullyAllocated: 1024 });
  t.is(raw.probe(Buffer.alloc(0), 'x'), 1);
});

test('what is written here is what qemu-io reads', async (t) => {
  const qemuIo = tool('qemu-io');
  if (qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const path = join(directory, 'x');
    const target = await createRaw({ storage: await newFile(path), size: 10 << 20, options: {} });
    await target.write(1 << 20, Buffer.alloc(1 << 20, 0x11));
    await target.write(4 << 20, Buffer.alloc(1 << 20, 0x22));
    await target.zero((1 << 20) + 4096, 8192, { unmap: true });
    await target.close();
    const reads = [
      'read -P 0 0 1M',
      'read -P 0x11 1M 4k',
      'read -P 0 1052672 8k',
      'read -P 0x11 1060864 4k',
      'read -P 0x22 4M 1M',
      'read -P 0 5M 5M',
    ];
    const text = qemuIo.expect(['-r', '-f', 'raw', ...reads.flatMap((read) => ['-c', read]), path]);
    t.false(/failed|error/i.test(text), text);
  });
});
