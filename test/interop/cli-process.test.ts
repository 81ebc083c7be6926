import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { bundleProgram, type Program } from '../support/program.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';

let program: Program;
test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program?.remove());

const MIB = 1024 * 1024;

/** A disk whose copy at one MiB a second outlasts any test. */
function bigDisk(directory: string): string {
  const path = join(directory, 'disk.raw');
  writeFileSync(path, Buffer.alloc(64 * MIB, 'data'));
  return path;
}

interface Running {
  child: ChildProcess;
  stdout(): string;
  stderr(): string;
  /** Resolves once standard error matches. */
  says(pattern: RegExp): Promise<void>;
  ended: Promise<number | string>;
}

function start(args: readonly string[], stdout: 'pipe' | number = 'pipe'): Running {
  const child = spawn(process.execPath, [program.link('qemu-img'), ...args], { stdio: ['ignore', stdout, 'pipe'] });
  const texts = { stdout: '', stderr: '' };
  child.stdout?.on('data', (data) => {
    texts.stdout += data;
  });
  child.stderr?.on('data', (data) => {
    texts.stderr += data;
  });
  const ended = once(child, 'close').then(([code, signal]) => code ?? signal);
  return {
    child,
    ended,
    stdout: () => texts.stdout,
    stderr: () => texts.stderr,
    async says(pattern) {
      while (!pattern.test(texts.stderr)) {
        const more = await Promise.race([once(child.stderr!, 'data').then(() => true), ended.then(() => false)]);
        if (!more && !pattern.test(texts.stderr)) throw new Error(`never said ${pattern}: ${texts.stderr}`);
      }
    },
  };
}

const slowCopy = (disk: string, out: string, ...more: string[]) =>
  start(['convert', '--progress=json', '-r', '1M', ...more, disk, out]);

for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const) {
  test(`${signal} stops a copy quietly with exit code ${code} and leaves no image`, (t) =>
    withTmpDir(async (directory) => {
      const out = join(directory, 'out.qcow2');
      const running = slowCopy(bigDisk(directory), out, '-O', 'qcow2');
      await running.says(/"percent":[1-9]/);
      running.child.kill(signal);
      t.is(await running.ended, code);
      t.false(/error|abort|Internal/i.test(running.stderr()), running.stderr());
      t.false(existsSync(out));
    }));
}

test('SIGUSR1 tells the progress once and opens no debugger', (t) =>
  withTmpDir(async (directory) => {
    const running = slowCopy(bigDisk(directory), join(directory, 'out'));
    await running.says(/"percent":0/);
    running.child.kill('SIGUSR1');
    await running.says(/^ {4}\(\d+\.\d\d\/100%\)$/m);
    running.child.kill('SIGUSR1');
    await running.says(/^ {4}\(\d+\.\d\d\/100%\)$[\s\S]*^ {4}\(\d+\.\d\d\/100%\)$/m);
    running.child.kill('SIGINT');
    t.is(await running.ended, 130);
    t.false(/debugger/i.test(running.stderr()));
  }));

test('a full disk behind standard output is an error', (t) => {
  if (!existsSync('/dev/full')) {
    t.log('skipped: there is no /dev/full');
    return t.pass();
  }
  return withTmpDir(async (directory) => {
    const disk = bigDisk(directory);
    for (const args of [['info', disk], ['--help'], ['map', disk], ['measure', disk], ['compare', disk, disk]]) {
      const running = start(args, openSync('/dev/full', 'w'));
      t.is(await running.ended, 1);
      t.is(running.stderr(), 'qemu-img: Could not write to standard output: No space left on device\n');
    }
  });
});

test('a reader that leaves ends the program quietly with exit code 141', async (t) => {
  const running = start(['--help']);
  running.child.stdout!.destroy();
  t.is(await running.ended, 141);
  t.is(running.stderr(), '');
});

test('messages begin with the name that the program was called by', (t) => {
  t.is(program.run(['info'], { name: 'qemu-img' }).stderr.split(':')[0], 'qemu-img');
  t.is(program.run(['info'], { name: 'other-name' }).stderr.split(':')[0], 'other-name');
  t.is(program.run(['info'], { name: 'imgpipe.cjs' }).stderr.split(':')[0], 'imgpipe');
  t.regex(program.run(['info'], { name: 'other-name' }).stderr, /^Try 'other-name --help'/m);
});

test('-V prints the version', (t) => {
  for (const option of ['-V', '--version', '--vers', '-Vx']) {
    const { status, text, stderr } = program.run([option], { name: 'imgpipe.cjs' });
    t.deepEqual({ status, text, stderr }, { status: 0, text: 'imgpipe version 0.0.0-test\n', stderr: '' });
  }
});

test('-T reports what happens, to standard error or a file', (t) =>
  withTmpDir((directory) => {
    const disk = bigDisk(directory);
    const log = join(directory, 'log');
    const events = join(directory, 'events');
    writeFileSync(events, '# what opens\nimage_*\n-image_close\n');
    const names = program.run(['-T', 'help']).text.trim().split('\n');
    t.true(names.includes('image_open'));
    t.deepEqual(names, [...names].sort());
    t.regex(
      program.run(['-T', 'image_open', 'info', disk]).stderr,
      /^image_open file=.*disk\.raw format=raw size=67108864/,
    );
    t.regex(program.run(['--trace', `events=${events}`, 'info', disk]).stderr, /^image_open file=/m);
    t.is(program.run(['-T', `enable=image*,file=${log}`, 'info', disk]).stderr, '');
    t.regex(String(tool('cat').expect([log])), /^image_open file=/m);
    t.is(program.run(['-T', 'image*', '-T', '-image_open', 'info', disk]).stderr, '');
  }));

test('-T says what is wrong with its value as qemu-img does', (t) => {
  const oracle = tool('qemu-img');
  if (oracle.missing(t)) return;
  for (const value of ['zzz', 'enable=foo,bar=1', 'file=/dev/null,qcow2_open', '=', 'a,b']) {
    const expected = oracle.run(['-T', value, 'info']);
    const got = program.run(['-T', value, 'info']);
    const ours = got.stderr.replaceAll(/^.*warning: trace event '.*' does not exist\n/gm, '');
    t.is(ours, expected.stderr.replaceAll(/^.*warning: trace event '.*' does not exist\n/gm, ''), value);
    t.is(got.status, expected.status, value);
  }
});

test('-p on a pipe prints the lines of qemu-img, from 0 to 100', (t) =>
  withTmpDir((directory) => {
    const disk = bigDisk(directory);
    for (const args of [
      ['convert', '-p', disk, join(directory, 'out')],
      ['convert', '-pO', 'qcow2', disk, join(directory, 'out.qcow2')],
    ]) {
      const { text, stderr, status } = program.run(args);
      t.regex(text, /^ {4}\(0\.00\/100%\)\r( {4}\(\d+\.\d\d\/100%\)\r)* {4}\(100\.00\/100%\)\r\n$/);
      t.is(stderr, '');
      t.is(status, 0);
    }
    const { text } = program.run(['compare', '-p', disk, join(directory, 'out')]);
    t.regex(text, /^ {4}\(0\.00\/100%\)\r[\s\S]* {4}\(100\.00\/100%\)\rImages are identical\.\n\n$/);
    t.is(program.run(['convert', '-pq', disk, join(directory, 'out')]).text, '');
  }));

test('--progress=json prints objects on standard error, and an unknown style is refused', (t) =>
  withTmpDir((directory) => {
    const disk = bigDisk(directory);
    const out = join(directory, 'out');
    const { text, stderr } = program.run(['dd', '--progress=json', `if=${disk}`, `of=${out}`, 'bs=1M']);
    t.is(text, '');
    const steps = stderr
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    t.is(steps[0].percent, 0);
    t.like(steps.at(-1), { percent: 100, secondsLeft: 0 });
    t.deepEqual(
      steps.map(({ done }) => done),
      steps.map(({ done }) => done).sort((a, b) => a - b),
    );
    const wrong = program.run(['convert', '--progress=fancy', disk, out]);
    t.is(wrong.stderr, "qemu-img: Invalid progress style 'fancy': must be one of bar, plain, json and none\n");
    t.is(wrong.status, 1);
  }));
