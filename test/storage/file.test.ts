import { execFileSync } from 'node:child_process';
import { existsSync, openSync, readFileSync, statSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { enableTrace, setTraceWriter } from '../../lib/core/trace.ts';
import { openFile } from '../../lib/storage/file.ts';
import { withTmpDir } from '../support/tmp.ts';
import { pattern } from './model.ts';
import { lacksSystemCalls } from './skip.ts';

test('opening tells reasons in qemu-img’s words', async (t) => {
  await withTmpDir(async (directory) => {
    const missing = join(directory, 'missing');
    await t.throwsAsync(openFile(missing), {
      instanceOf: ImageError,
      message: `Could not open '${missing}': No such file or directory`,
      code: 'ENOENT',
    });
    await t.throwsAsync(openFile(directory), {
      instanceOf: ImageError,
      message: `'file' driver requires '${directory}' to be a regular file`,
    });
    const nowhere = join(directory, 'nowhere', 'x');
    await t.throwsAsync(openFile(nowhere, { create: true }), {
      message: `Could not create '${nowhere}': No such file or directory`,
    });
    await t.throwsAsync(openFile(directory, { create: true }), {
      message: `Could not create '${directory}': Is a directory`,
    });
  });
});

test('a named pipe is refused instead of waited for', async (t) => {
  await withTmpDir(async (directory) => {
    const fifo = join(directory, 'fifo');
    execFileSync('mkfifo', [fifo]);
    await t.throwsAsync(openFile(fifo), { instanceOf: ImageError, message: /to be a regular file$/ });
  });
});

test('creating keeps what is there unless it shall be truncated', async (t) => {
  await withTmpDir(async (directory) => {
    const path = join(directory, 'x');
    writeFileSync(path, 'hello');
    const kept = await openFile(path, { create: true });
    t.is(kept.size, 5);
    await kept.close();
    const emptied = await openFile(path, { create: true, truncate: true });
    t.is(emptied.size, 0);
    await emptied.close();
    t.is(statSync(path).size, 0);
  });
});

test('only a file that was made by its storage is discarded', async (t) => {
  await withTmpDir(async (directory) => {
    const made = join(directory, 'made');
    await (await openFile(made, { create: true })).close({ discard: true });
    t.false(existsSync(made));
    const found = join(directory, 'found');
    writeFileSync(found, 'mine');
    await (await openFile(found, { create: true })).close({ discard: true });
    t.is(readFileSync(found, 'utf8'), 'mine');
  });
});

test('a file that took the place of a new one is not removed in its stead', async (t) => {
  await withTmpDir(async (directory) => {
    const path = join(directory, 'x');
    const storage = await openFile(path, { create: true });
    execFileSync('rm', [path]);
    writeFileSync(path, 'another');
    await storage.close({ discard: true });
    t.is(readFileSync(path, 'utf8'), 'another');
  });
});

test('reads beyond the end are refused and leave no operation behind', async (t) => {
  await withTmpDir(async (directory) => {
    const path = join(directory, 'x');
    writeFileSync(path, 'hello');
    const storage = await openFile(path);
    const error = await t.throwsAsync(storage.read(3, Buffer.alloc(3)), { instanceOf: ImageError });
    t.is(error.kind, 'corrupt');
    t.is(error.offset, 3);
    t.is(error.file, path);
    await storage.close();
  });
});

test('a file that shrinks while it is read gives an error, by read and by map', async (t) => {
  if (await lacksSystemCalls(t)) return;
  await withTmpDir(async (directory) => {
    const path = join(directory, 'x');
    writeFileSync(path, pattern(100_000, 1));
    const storage = await openFile(path);
    truncateSync(path, 50_000);
    await t.throwsAsync(storage.read(49_000, Buffer.alloc(2000)), { message: 'The file shrank while it was read' });
    await t.throwsAsync(storage.holes(60_000, 1000), { message: 'The file shrank while it was read' });
    await storage.close();
  });
});

test('writes to a file opened for reading fail with the system’s reason', async (t) => {
  await withTmpDir(async (directory) => {
    const path = join(directory, 'x');
    writeFileSync(path, 'hello');
    const storage = await openFile(path);
    await t.throwsAsync(storage.write(0, Buffer.from('x')), { instanceOf: ImageError, code: 'EBADF' });
    await t.throwsAsync(storage.zero(0, 3), { instanceOf: ImageError, code: 'EBADF' });
    await t.throwsAsync(storage.truncate(0), { instanceOf: ImageError, code: 'EINVAL' });
    await storage.close();
    t.is(readFileSync(path, 'utf8'), 'hello');
  });
});

test('closing waits for what is in flight and refuses what comes after', async (t) => {
  await withTmpDir(async (directory) => {
    const path = join(directory, 'x');
    const storage = await openFile(path, { create: true });
    const bytes = pattern(4 << 20, 3);
    const writing = storage.write(0, bytes);
    await Promise.all([storage.close(), storage.close()]);
    await writing;
    t.true(readFileSync(path).equals(bytes));
    await t.throwsAsync(storage.read(0, Buffer.alloc(1)), { message: 'The file is closed already' });
    await storage.close();
  });
});

test('zeros that lengthen the file never cut off writes that go on beside them', async (t) => {
  await withTmpDir(async (directory) => {
    const storage = await openFile(join(directory, 'x'), { create: true });
    const [step, count] = [8192, 24];
    // From the top down: each ftruncate(2) that came too late would cut the writes before it.
    const slots = Array.from({ length: count }, (_, index) => count - 1 - index);
    const isZero = (slot: number) => slot % 3 === 0;
    for (let round = 0; round < 40; round += 1) {
      const start = storage.size;
      const request = (slot: number) =>
        isZero(slot)
          ? storage.zero(start + slot * step, step)
          : storage.write(start + slot * step, pattern(step, slot));
      await Promise.all(slots.map(request));
      for (const slot of slots) {
        const found = Buffer.alloc(step);
        await storage.read(start + slot * step, found);
        const wanted = isZero(slot) ? Buffer.alloc(step) : pattern(step, slot);
        if (!found.equals(wanted)) return t.fail(`round ${round}: request ${slot} was lost`);
      }
    }
    await storage.close();
    t.pass();
  });
});

test('an open descriptor is used as it is', async (t) => {
  await withTmpDir(async (directory) => {
    const path = join(directory, 'x');
    writeFileSync(path, 'hello');
    for (const cache of ['writeback', 'none'] as const) {
      const storage = await openFile('some name', { fd: openSync(path, 'r'), cache });
      const bytes = Buffer.alloc(5);
      await storage.read(0, bytes);
      t.is(bytes.toString(), 'hello');
      t.is(storage.name, 'some name');
      await storage.close();
    }
  });
});

test.serial('where a file system has no O_DIRECT, the page cache serves, and the trace says so', async (t) => {
  if (await lacksSystemCalls(t)) return;
  if (!existsSync('/proc/version')) {
    t.log('skipped: no /proc');
    return t.pass();
  }
  const lines: string[] = [];
  setTraceWriter((line) => lines.push(line));
  enableTrace('file_direct');
  try {
    await (await openFile('/proc/version', { cache: 'none' })).close();
  } finally {
    enableTrace('-file_direct');
  }
  t.deepEqual(lines, ['file_direct file=/proc/version direct=false']);
});

test('bytes are copied from file to file inside the kernel', async (t) => {
  await withTmpDir(async (directory) => {
    const bytes = pattern(3_000_000, 5);
    writeFileSync(join(directory, 'from'), bytes);
    const from = await openFile(join(directory, 'from'));
    const to = await openFile(join(directory, 'to'), { create: true });
    const copied = await to.copyFrom(from, 1000, 5000, 2_000_000);
    if (copied === 0) {
      t.log('skipped: no copy_file_range here');
    } else {
      t.is(copied, 2_000_000);
      t.is(to.size, 2_005_000);
      const found = Buffer.alloc(2_000_000);
      await to.read(5000, found);
      t.true(found.equals(bytes.subarray(1000, 2_001_000)));
      // What the input does not have is not copied, and the caller's reading tells why.
      t.is(await to.copyFrom(from, 2_999_000, 0, 5000), 1000);
    }
    await from.close();
    await to.close();
    t.pass();
  });
});

test('references are resolved as QEMU resolves them', async (t) => {
  await withTmpDir(async (directory) => {
    const path = join(directory, 'x');
    writeFileSync(path, '');
    symlinkSync(path, join(directory, 'link'));
    const storage = await openFile(`${directory}/./link`);
    t.is(storage.resolve('base'), `${directory}/./base`);
    t.is(storage.resolve('../base'), `${directory}/./../base`);
    t.is(storage.resolve('/base'), '/base');
    t.is(storage.resolve('nbd:host:1'), 'nbd:host:1');
    await storage.close();
  });
});

test('preallocated space is told by the file system', async (t) => {
  await withTmpDir(async (directory) => {
    const storage = await openFile(join(directory, 'x'), { create: true });
    await storage.allocate(0, 8 << 20);
    t.is(storage.size, 8 << 20);
    t.true(((await storage.allocatedBytes()) ?? 0) >= 8 << 20);
    await storage.discard(0, 4 << 20);
    t.true(((await storage.allocatedBytes()) ?? 0) <= 8 << 20);
    await storage.close();
  });
});
