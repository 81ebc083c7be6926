import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, openSync, readFileSync, readSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { pattern, Random } from '../support/model.ts';
import { bundleProgram, type Program } from '../support/program.ts';
import { withTmpDir } from '../support/tmp.ts';
import { runProgram, tool } from '../support/tools.ts';

let program: Program;
test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program?.remove());

const SIZE = 8 * 1024 * 1024;

function sourceDisk(directory: string): string {
  const path = join(directory, 'source.raw');
  writeFileSync(path, pattern(SIZE, 12));
  return path;
}

/** Whether the file is there and begins as a complete qcow2 image does. */
function isQcow2(path: string): boolean {
  if (!existsSync(path)) return false;
  const magic = Buffer.alloc(4);
  readSync(openSync(path, 'r'), magic, 0, 4, 0);
  return magic.equals(Buffer.from('QFI\xfb', 'latin1'));
}

test('a file size limit fails convert, dd and create with the reason, and leaves no output', async (t) => {
  if (tool('bash').missing(t)) return;
  await withTmpDir((directory) => {
    const source = sourceDisk(directory);
    const out = join(directory, 'out');
    for (const args of [
      ['convert', '-f', 'raw', '-O', 'qcow2', source, out],
      ['convert', '-f', 'raw', '-O', 'raw', source, out],
      ['convert', '-f', 'raw', '-O', 'qcow2', '-c', '-o', 'compression_type=zstd,cluster_size=512', source, out],
      ['dd', '-f', 'raw', '-O', 'qcow2', 'bs=64k', `if=${source}`, `of=${out}`],
      ['create', '-q', '-f', 'qcow2', '-o', 'preallocation=full', out, '8M'],
      ['create', '-q', '-f', 'raw', out, '8M'],
    ]) {
      // 64 KiB: bash counts in blocks of 1024 bytes.
      const line = 'ulimit -f 64; exec "$@"';
      const { status, stderr } = tool('bash').run(['-c', line, 'bash', process.execPath, program.path, ...args]);
      t.is(status, 1, `${args.join(' ')}: ${stderr}`);
      t.regex(stderr, /File too large\n$/, args.join(' '));
      t.false(isQcow2(out), args.join(' '));
      t.false(existsSync(out), args.join(' '));
    }
  });
});

/** Commands that make the file `image`, or what it lies on, longer. */
const GROWING: readonly string[] = [
  'snapshot -c new image',
  'resize -f qcow2 --preallocation=full image +8M',
  'amend -f qcow2 -o refcount_bits=64 image',
  'amend -f qcow2 -o compat=0.10 image',
  'commit -q image',
  'rebase -b other -F raw image',
  'convert -n -f raw -O qcow2 source.raw image',
];

test('a file size limit fails commands that work in place with the reason, and leaves an image with the same disk', async (t) => {
  const qemuImg = tool('qemu-img');
  if (tool('bash').missing(t) || qemuImg.missing(t) || tool('qemu-io').missing(t)) return;
  await withTmpDir((directory) => {
    sourceDisk(directory);
    const run = { cwd: directory };
    qemuImg.expect(['create', '-q', '-f', 'qcow2', 'base', `${SIZE}`], run);
    qemuImg.expect(['create', '-q', '-f', 'raw', 'other', `${SIZE}`], run);
    tool('qemu-io').expect(['-f', 'qcow2', '-c', 'write -P 5 7M 1M', 'base'], run);
    qemuImg.expect(['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', '-b', 'base', '-F', 'qcow2', 'image'], run);
    // Zero clusters, which version 2 can't have.
    tool('qemu-io').expect(['-f', 'qcow2', '-c', 'write -P 1 0 3M', '-c', 'write -z 3M 4M', 'image'], run);
    const kept = ['image', 'base'].map((file) => [join(directory, file), readFileSync(join(directory, file))] as const);
    qemuImg.expect(['convert', '-O', 'raw', 'image', 'before.raw'], run);
    for (const line of GROWING) {
      for (const [path, bytes] of kept) writeFileSync(path, bytes);
      const limited = line.startsWith('commit') ? kept[1][1] : kept[0][1];
      const limit = `ulimit -f ${Math.floor(limited.length / 1024)}; exec "$@"`;
      const { status, stderr } = tool('bash').run(
        ['-c', limit, 'bash', process.execPath, program.path, ...line.split(' ')],
        run,
      );
      t.is(status, 1, `${line}: ${stderr}`);
      t.regex(stderr, /^[^\n]*File too large\n$/, line);
      for (const file of ['image', 'base']) t.true([0, 3].includes(qemuImg.run(['check', file], run).status), line);
      if (line.startsWith('convert')) continue;
      t.is(qemuImg.run(['compare', '-f', 'raw', '-F', 'qcow2', 'before.raw', 'image'], run).status, 0, line);
    }
  });
});

test('a full file system fails convert and dd with the reason, and leaves no output', async (t) => {
  await withTmpDir((directory) => {
    const small = join(directory, 'small');
    mkdirSync(small);
    try {
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'none', small], { stdio: 'ignore' });
    } catch {
      t.log('skipped: file systems cannot be mounted here');
      return t.pass();
    }
    try {
      const source = sourceDisk(directory);
      const out = join(small, 'out');
      for (const args of [
        ['convert', '-f', 'raw', '-O', 'qcow2', source, out],
        ['convert', '-f', 'raw', '-O', 'raw', source, out],
        ['convert', '-f', 'raw', '-O', 'qcow2', '-W', '-m', '16', source, out],
        ['dd', '-f', 'raw', '-O', 'raw', 'bs=64k', `if=${source}`, `of=${out}`],
        ['create', '-q', '-f', 'qcow2', '-o', 'preallocation=falloc', out, '8M'],
      ]) {
        const { status, stderr } = program.run(args);
        t.is(status, 1, `${args.join(' ')}: ${stderr}`);
        t.regex(stderr, /No space left on device\n$/, args.join(' '));
        t.false(existsSync(out), args.join(' '));
      }
    } finally {
      execFileSync('umount', [small]);
    }
  });
});

test('hostile files give one line and exit code 1, and no output', async (t) => {
  const qemuImg = tool('qemu-img');
  if (qemuImg.missing(t)) return;
  await withTmpDir((directory) => {
    const path = join(directory, 'hostile.qcow2');
    const out = join(directory, 'out');
    qemuImg.expect(['create', '-q', '-f', 'qcow2', path, '1M']);
    const bytes = readFileSync(path);
    const spoiled: Record<string, (image: Buffer) => void> = {
      'cluster_bits of 63': (image) => image.writeUInt32BE(63, 20),
      'a giant L1 table': (image) => image.writeUInt32BE(0xffff_ffff, 36),
      'an unaligned L1 table': (image) => image.writeUInt32BE(0x30001, 44),
      'no refcount table': (image) => image.writeUInt32BE(0, 56),
      'a snapshot table past the end': (image) => {
        image.writeUInt32BE(9, 60);
        image.writeUInt32BE(0x7fff_0000, 68);
      },
      'unknown features': (image) => image.writeUInt32BE(0x8000_0000, 72),
      'a header without an end': (image) => image.writeUInt32BE(0xffff_fff0, 100),
    };
    for (const [what, spoil] of Object.entries(spoiled)) {
      const image = Buffer.from(bytes);
      spoil(image);
      writeFileSync(path, image);
      for (const args of [
        ['info', '-f', 'qcow2', path],
        ['convert', '-f', 'qcow2', '-O', 'raw', path, out],
      ]) {
        const { status, stderr, text } = program.run(args);
        t.is(status, 1, what);
        t.is(text, '', what);
        t.regex(stderr, /^qemu-img: [^\n]+\n$/, what);
        t.notRegex(stderr, /TypeError|RangeError|Internal error/, what);
        t.false(existsSync(out), what);
      }
      t.true(readFileSync(path).equals(image), `${what}: the file was changed`);
    }
  });
});

test('a conversion that is killed at any moment leaves no file that passes for the image', async (t) => {
  await withTmpDir(async (directory) => {
    const source = sourceDisk(directory);
    const random = new Random(3);
    let killed = 0;
    for (let round = 0; round < 8; round += 1) {
      const out = join(directory, `out-${round}`);
      const args = ['convert', '-f', 'raw', '-O', 'qcow2', '-r', '32M', source, out];
      const child = spawn(process.execPath, [program.path, ...args], { stdio: 'ignore' });
      const ended = once(child, 'exit');
      while (!existsSync(out) && child.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 5));
      await new Promise((resolve) => setTimeout(resolve, random.below(300)));
      child.kill('SIGKILL');
      const [, signal] = await ended;
      if (signal === 'SIGKILL') killed += 1;
      if (!isQcow2(out)) continue;
      // It got as far as completing the image: then all of it is there.
      const back = join(directory, 'back.raw');
      const { status } = runProgram(process.execPath, [program.path, 'convert', '-f', 'qcow2', '-O', 'raw', out, back]);
      t.is(status, 0);
      t.true(readFileSync(back).equals(readFileSync(source)));
    }
    t.true(killed > 0);
  });
});
