import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { FALLOCATE, overrideSystemCalls, type SystemCalls, systemCalls } from '../../lib/syscalls/calls.ts';
import { isUnsupported, SystemCallError } from '../../lib/syscalls/libc.ts';
import { withTmpDir } from '../support/tmp.ts';
import { runProgram } from '../support/tools.ts';

/** The system calls; passes with a reason where there are none. */
async function callsOrSkip(t: ExecutionContext): Promise<SystemCalls | null> {
  const calls = await systemCalls();
  if (calls === null || process.platform !== 'linux') {
    t.log('skipped: no Linux system calls here');
    t.pass();
    return null;
  }
  return calls;
}

async function withDescriptor(use: (fd: number, path: string) => Promise<unknown>): Promise<void> {
  await withTmpDir(async (directory) => {
    const path = join(directory, 'x');
    const fd = openSync(path, 'w+');
    try {
      await use(fd, path);
    } finally {
      closeSync(fd);
    }
  });
}

test.serial('data and holes are found far beyond 32 bits', async (t) => {
  const calls = await callsOrSkip(t);
  if (calls === null) return;
  await withDescriptor(async (fd) => {
    const at = 2 ** 40;
    writeSync(fd, Buffer.alloc(65_536, 1), 0, 65_536, at);
    ftruncateSync(fd, 2 * at);
    t.is(calls.seekEnd(fd), 2 * at);
    // Without holes, a file system calls everything data.
    const data = calls.seek(fd, 0, 'data');
    t.true(data === at || data === 0);
    if (data === at) t.is(calls.seek(fd, at, 'hole'), at + 65_536);
    t.is(calls.seek(fd, 2 * at, 'data'), null);
  });
});

test.serial('failures carry the errno of the thread that failed', async (t) => {
  const calls = await callsOrSkip(t);
  if (calls === null) return;
  t.throws(() => calls.seek(-1, 0, 'data'), { instanceOf: SystemCallError, code: 'EBADF' });
  const attempts = Array.from({ length: 8 }, () => calls.fallocate(-1, FALLOCATE.allocate, 0, 1));
  for (const attempt of attempts) await t.throwsAsync(attempt, { instanceOf: SystemCallError, code: 'EBADF' });
  await withDescriptor(async (fd) => {
    await t.throwsAsync(calls.ioctl(fd, 0x1277, Buffer.alloc(16)), { code: 'ENOTTY' });
    await t.throwsAsync(calls.fallocate(fd, FALLOCATE.allocate, 0, 0), { code: 'EINVAL' });
  });
});

test.serial('a range is copied inside the kernel', async (t) => {
  const calls = await callsOrSkip(t);
  if (calls === null) return;
  await withDescriptor(async (fd, path) => {
    writeSync(fd, 'hello world');
    try {
      t.is(await calls.copyFileRange(fd, 6, fd, 20, 5), 5);
    } catch (error) {
      if (!isUnsupported(error)) throw error;
      t.log('skipped: no copy_file_range here');
      return t.pass();
    }
    t.is(readFileSync(path, 'latin1'), `hello world${'\0'.repeat(9)}world`);
    t.is(await calls.copyFileRange(fd, 25, fd, 100, 5), 0);
  });
});

test.serial('misalignment is what is missing to the multiple before', async (t) => {
  const calls = await callsOrSkip(t);
  if (calls === null) return;
  const buffer = Buffer.allocUnsafeSlow(16_384);
  const skip = calls.misalignment(buffer, 4096);
  t.true(skip >= 0 && skip < 4096);
  t.is(calls.misalignment(buffer.subarray(4096 - skip), 4096), 0);
  t.is(calls.misalignment(buffer.subarray(4096 - skip + 7), 4096), 7);
});

test.serial('others can be put in the place of the system’s calls', async (t) => {
  overrideSystemCalls(null);
  t.is(await systemCalls(), null);
  overrideSystemCalls(undefined);
  t.is(await systemCalls(), await systemCalls());
});

test('the environment turns system calls off, and koffi is not loaded before it is needed', (t) => {
  const script = `
    import { systemCalls } from './lib/syscalls/calls.ts';
    import { openFile } from './lib/storage/file.ts';
    import { createRequire } from 'node:module';
    const loaded = () => process.report.getReport().sharedObjects.some((name) => /koffi/.test(name));
    const storage = await openFile('package.json');
    await storage.read(0, Buffer.alloc(10));
    await storage.allocatedBytes();
    await storage.close();
    const before = loaded();
    console.log(JSON.stringify([before, (await systemCalls()) !== null, loaded()]));
  `;
  const run = (value: string) =>
    JSON.parse(
      runProgram(process.execPath, ['--import=tsx', '--input-type=module', '-e', script], {
        env: { IMGPIPE_SYSCALLS: value, NODE_V8_COVERAGE: '' },
      }).text,
    );
  t.deepEqual(run('off'), [false, false, false]);
  const [before, available, after] = run('');
  t.false(before);
  t.is(available, after);
});
