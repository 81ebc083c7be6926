import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test from 'ava';
import { bundleProgram, type Program } from '../support/program.ts';
import { shellIn } from '../support/shell.ts';

const MIB = 1024 * 1024;
/** Generous: what counts is that memory does not follow the image. */
const MAX_RESIDENT = 220 * MIB;
const onLinux = process.platform === 'linux' ? test : test.skip;

let program: Program;
let directory: string;

test.before(async () => {
  program = await bundleProgram();
  directory = mkdtempSync(join(tmpdir(), 'imgpipe-endings-'));
  writeFileSync(join(directory, 'big.raw'), Buffer.alloc(MIB, 7));
  truncateSync(join(directory, 'big.raw'), 600 * MIB);
});

test.after.always(() => {
  program?.remove();
  if (directory !== undefined) rmSync(directory, { recursive: true, force: true });
});

/** Starts the program with pipes at both ends, in an empty directory that is its place for temporary files, too. */
function start(args: readonly string[]): { child: ChildProcess; place: string } {
  const place = mkdtempSync(join(directory, 'place-'));
  const env = { ...process.env, TMPDIR: place };
  const child = spawn(process.execPath, [program.path, ...args], { cwd: place, env, stdio: ['pipe', 'pipe', 'pipe'] });
  // It may end with bytes still on their way to it.
  child.stdin?.on('error', () => {});
  return { child, place };
}

async function exitOf(child: ChildProcess): Promise<number | string> {
  const [code, signal] = await once(child, 'exit');
  return signal === null ? code : `killed by ${signal}`;
}

/** Waits for something that takes a moment; fails after ten seconds. */
async function until(condition: () => boolean): Promise<void> {
  for (let tries = 0; !condition(); tries += 1) {
    if (tries > 500) throw new Error('It did not happen');
    await sleep(20);
  }
}

/** The most memory that a process has had so far, in bytes; 0 once it has ended. */
function peakOf({ pid }: ChildProcess): number {
  const found = /^VmHWM:\s*(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'));
  return found === null ? 0 : Number(found[1]) * 1024;
}

function bytesRead({ pid }: ChildProcess): number {
  const [, count] = /^rchar: (\d+)/m.exec(readFileSync(`/proc/${pid}/io`, 'latin1')) as RegExpExecArray;
  return Number(count);
}

for (const args of [
  'convert -f raw -O raw big.raw -',
  'convert -f raw -O qcow2 -S 0 big.raw -',
  'dd if=big.raw of=-',
]) {
  test(`a reader that has enough ends \`${args}\` quietly`, (t) => {
    const { statuses, stdout, stderr } = shellIn(directory, program)(`$IMGPIPE ${args} | head -c 1M`);
    t.deepEqual(statuses, [141, 0]);
    t.is(stdout.length, MIB);
    t.is(stderr, '');
  });
}

test('the end of the reader ends a pipe in the middle, too', (t) => {
  const { statuses, stderr } = shellIn(
    directory,
    program,
  )('head -c 1000M /dev/zero | $IMGPIPE convert -f raw - - | head -c 1M | wc -c');
  t.is(statuses[1], 141);
  t.is(stderr, '');
});

for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const) {
  for (const output of ['out.qcow2', 'out.raw']) {
    test(`${signal} while standard input is silent leaves no ${output} and nothing else`, async (t) => {
      const { child, place } = start(['convert', '-f', 'raw', '-O', output.slice(4), '-', output]);
      child.stdin?.write(Buffer.alloc(3 * MIB, 5));
      await until(() => existsSync(join(place, output)));
      child.kill(signal);
      t.is(await exitOf(child), code);
      t.deepEqual(readdirSync(place), []);
    });
  }

  test(`${signal} while a pipe is spooled leaves nothing`, async (t) => {
    const { child, place } = start(['convert', '-f', 'qcow2', '-O', 'raw', '-', 'out.raw']);
    child.stdin?.write(Buffer.alloc(20 * MIB, 5));
    await until(() => bytesRead(child) > 20 * MIB);
    child.kill(signal);
    t.is(await exitOf(child), code);
    t.deepEqual(readdirSync(place), []);
  });

  test(`${signal} while the reader of standard output is silent ends the program`, async (t) => {
    const { child } = start(['convert', '-f', 'raw', '-O', 'raw', join(directory, 'big.raw'), '-']);
    await once(child.stdout as NodeJS.ReadableStream, 'readable');
    child.kill(signal);
    t.is(await exitOf(child), code);
  });
}

onLinux('a reader that is slow holds memory flat', async (t) => {
  for (const format of ['raw', 'qcow2']) {
    const { child } = start(['convert', '-f', 'raw', '-O', format, '-S', '0', join(directory, 'big.raw'), '-']);
    let taken = 0;
    const reading = async () => {
      for await (const chunk of child.stdout as NodeJS.ReadableStream) {
        taken += chunk.length;
        if (taken < 20 * MIB) await sleep(5);
      }
    };
    const done = reading();
    await until(() => taken > 10 * MIB);
    t.true(peakOf(child) < MAX_RESIDENT, `${format}: ${peakOf(child)}`);
    let peak = 0;
    const watch = setInterval(() => {
      if (child.exitCode === null) peak = Math.max(peak, peakOf(child));
    }, 50);
    t.is(await exitOf(child), 0);
    clearInterval(watch);
    await done;
    t.true(taken >= 600 * MIB);
    t.true(peak > 0 && peak < MAX_RESIDENT, `${format}: ${peak}`);
  }
});

onLinux('a writer that is fast holds memory flat', async (t) => {
  for (const args of [
    ['dd', 'if=-', 'of=out.raw'],
    ['convert', '-f', 'raw', '-O', 'qcow2', '-', 'out.qcow2'],
  ]) {
    const { child, place } = start(args);
    const block = Buffer.alloc(MIB, 9);
    let peak = 0;
    for (let sent = 0; sent < 300; sent += 1) {
      if (child.stdin?.write(block) === false) await once(child.stdin, 'drain');
      if (sent % 20 === 0) peak = Math.max(peak, peakOf(child));
    }
    child.stdin?.end();
    t.is(await exitOf(child), 0);
    t.true(peak > 0 && peak < MAX_RESIDENT, `${args}: ${peak}`);
    rmSync(place, { recursive: true });
  }
});

test('standard output that is full is an error, and says so', (t) => {
  if (!existsSync('/dev/full')) {
    t.log('skipped: there is no /dev/full');
    return t.pass();
  }
  const { statuses, stderr } = shellIn(directory, program)('$IMGPIPE convert -f raw -O raw big.raw - > /dev/full');
  t.deepEqual(statuses, [1]);
  t.regex(stderr, /No space left on device/);
});

test('a directory is no standard input', (t) => {
  const { statuses, stderr } = shellIn(directory, program)('$IMGPIPE dd if=- of=never.raw < .');
  t.deepEqual(statuses, [1]);
  t.regex(stderr, /Is a directory/);
  t.false(existsSync(join(directory, 'never.raw')));
});
