import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { systemCalls } from '../../lib/syscalls/calls.ts';
import { bundleProgram, type Program } from '../support/program.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { pattern } from './model.ts';

const strace = tool('strace');
const qemuImg = tool('qemu-img');
let program: Program;

test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program.remove());

/** A system call on a file: what it was, and how the descriptor was opened. */
interface Call {
  name: string;
  flags: string;
}

/** The calls that a run of the program makes on the file of that name, in the order in which they end. */
function callsOn(directory: string, file: string, args: readonly string[]): Call[] {
  const log = join(directory, 'log');
  const names = 'openat,close,fdatasync,fsync,pwrite64,pwritev,pread64,preadv,fallocate,ftruncate';
  strace.expect(['-f', '-y', '-o', log, '-e', `trace=${names}`, process.execPath, program.path, ...args], {
    cwd: directory,
    // Its own threads are enough to follow.
    env: { UV_THREADPOOL_SIZE: '2' },
  });
  return parse(readFileSync(log, 'utf8'), `${directory}/${file}`);
}

function parse(log: string, path: string): Call[] {
  const flags = new Map<string, string>();
  const calls: Call[] = [];
  for (const line of log.split('\n')) {
    const [, name, rest] = /^\d+ +(?:<\.\.\. )?(\w+)(.*)$/.exec(line) ?? ['', '', ''];
    const opened = new RegExp(`, (O_[A-Z_|]+).* = (\\d+)<${path}>$`).exec(rest);
    if (opened !== null) {
      flags.set(opened[2], opened[1]);
      calls.push({ name: 'open', flags: opened[1] });
      continue;
    }
    const used = new RegExp(`^\\((\\d+)<${path}>`).exec(rest);
    if (used !== null) calls.push({ name, flags: flags.get(used[1]) ?? '' });
  }
  return calls;
}

async function withInput(t: ExecutionContext, use: (directory: string) => void): Promise<void> {
  if (strace.missing(t)) return;
  if (strace.run(['-o', '/dev/null', 'true']).status !== 0 || (await systemCalls()) === null) {
    t.log('skipped: processes may not be traced here, or there are no system calls');
    t.pass();
    return;
  }
  await withTmpDir((directory) => {
    writeFileSync(join(directory, 'in'), pattern(3_000_000, 1));
    use(directory);
  });
}

const isWrite = ({ name }: Call) => name.startsWith('pwrite');
const isSync = ({ name }: Call) => name === 'fdatasync' || name === 'fsync';

/** What each mode does with an output. */
const MODES = {
  writeback: { direct: false, sync: false, flushes: true },
  none: { direct: true, sync: false, flushes: true },
  writethrough: { direct: false, sync: true, flushes: true },
  directsync: { direct: true, sync: true, flushes: true },
  unsafe: { direct: false, sync: false, flushes: false },
};

for (const [mode, { direct, sync, flushes }] of Object.entries(MODES)) {
  test(`-t ${mode} writes and flushes as it says`, async (t) => {
    await withInput(t, (directory) => {
      for (const format of ['raw', 'qcow2']) {
        const calls = callsOn(directory, `out-${mode}`, ['convert', '-t', mode, '-O', format, 'in', `out-${mode}`]);
        const writes = calls.filter(isWrite);
        t.true(writes.length > 0);
        // The ragged ends go through the page cache.
        t.is(
          writes.some(({ flags }) => flags.includes('O_DIRECT')),
          direct,
          format,
        );
        t.is(
          writes.every(({ flags }) => flags.includes('O_DSYNC')),
          sync,
          format,
        );
        t.is(calls.some(isSync), flushes, format);
        // Nothing is written after the last flush.
        if (flushes) t.true(calls.findLastIndex(isSync) > calls.findLastIndex(isWrite), format);
      }
    });
  });
}

test('-T none reads around the page cache', async (t) => {
  await withInput(t, (directory) => {
    for (const [mode, direct] of [
      ['none', true],
      ['writeback', false],
    ] as const) {
      const calls = callsOn(directory, 'in', ['convert', '-T', mode, '-f', 'raw', '-O', 'raw', 'in', 'out']);
      const reads = calls.filter(({ name }) => name.startsWith('pread'));
      t.is(
        reads.some(({ flags }) => flags.includes('O_DIRECT')),
        direct,
        mode,
      );
      t.true(readFileSync(join(directory, 'out')).subarray(0, 3_000_000).equals(pattern(3_000_000, 1)));
    }
  });
});

test('what a node says of its cache holds for the layers below it, and flushes may be left out', async (t) => {
  if (qemuImg.missing(t)) return;
  await withInput(t, (directory) => {
    qemuImg.expect(['create', '-q', '-f', 'qcow2', '-b', 'in', '-F', 'raw', 'top'], { cwd: directory });
    const image = 'driver=qcow2,file.filename=top,cache.direct=on,cache.no-flush=on';
    const below = callsOn(directory, 'in', ['convert', '--image-opts', image, '-O', 'raw', 'out']);
    t.true(below.some(({ name, flags }) => name === 'open' && flags.includes('O_DIRECT')));
    const args = ['bitmap', '--add', '--image-opts', 'driver=qcow2,file.filename=top,cache.no-flush=on', 'b'];
    const unflushed = callsOn(directory, 'top', args);
    t.true(unflushed.some(isWrite));
    t.false(unflushed.some(isSync));
    const flushed = callsOn(directory, 'top', ['bitmap', '--remove', 'top', 'b']);
    t.true(flushed.findLastIndex(isSync) > flushed.findLastIndex(isWrite));
  });
});

test('writethrough waits for the disk with what is no write, too', async (t) => {
  await withInput(t, (directory) => {
    const calls = callsOn(directory, 'out', ['convert', '-t', 'writethrough', '-f', 'raw', '-O', 'raw', 'in', 'out']);
    for (const [index, { name }] of calls.entries()) {
      if (name === 'ftruncate' || name === 'fallocate') t.true(isSync(calls[index + 1]), name);
    }
    t.true(calls.some(({ name }) => name === 'ftruncate'));
  });
});
