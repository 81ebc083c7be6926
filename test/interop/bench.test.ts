import { join } from 'node:path';
import test from 'ava';
import { bench } from '../../lib/pipelines/bench.ts';
import { bundleProgram, type Program } from '../support/program.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';

const qemuImg = tool('qemu-img');
let program: Program;

test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program.remove());

/** `F` is a qcow2 image of 16 MiB. */
const LINES = [
  '-c 100 F',
  '-c 100 -d 4 -s 8192 -S 65536 -o 1M F',
  '-c 300 -w --pattern=7 F',
  '-c 200 -w --flush-interval=70 F',
  '-c 200 -w --flush-interval=70 --no-drain F',
  '-c 0 F',
  '-c 10 -q F',
  '-o 17M -c 3 F',
  '-c 10 -d 2 -S 0 F',
  '-c 10 -s 100 F',
  '-c 5 -i threads -t directsync -w F',
  '-i bad F',
  '-c xx F',
  '-d xx F',
  '-o xx F',
  '-o 8E F',
  '-s 3G F',
  '-S xx F',
  '--pattern=300 -w F',
  '--flush-interval=5 F',
  '--flush-interval=5 -w F',
  '--flush-interval=xx -w F',
  '-w -U F',
  '-t bad F',
  'F F',
  'nofile',
];

test('bench says what qemu-img bench says', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const image = join(directory, 'image');
    qemuImg.expect(['create', '-q', '-f', 'qcow2', image, '16M']);
    const timeless = (text: string) => text.replace(/in \d+\.\d{3} seconds/, 'in N seconds');
    for (const line of LINES) {
      const args = ['bench', ...line.split(' ').map((word) => (word === 'F' ? image : word))];
      const [ours, theirs] = [program.run(args), qemuImg.run(args)];
      t.is(timeless(ours.text), timeless(theirs.text), line);
      t.is(ours.stderr, theirs.stderr, line);
      t.is(ours.status, theirs.status, line);
    }
    t.is(qemuImg.run(['check', '-q', image]).status, 0);
  });
});

test('bench reports as JSON how long single requests took', async (t) => {
  await withTmpDir(async (directory) => {
    const image = join(directory, 'image');
    program.run(['create', '-q', '-f', 'qcow2', image, '1M']);
    const { status, text } = program.run(['bench', '-c', '500', '--output=json', image]);
    t.is(status, 0);
    const report = JSON.parse(text);
    t.is(report.requests, 500);
    t.is(report.bytes, 500 * 4096);
    const { min, p50, p90, p99, p999, max } = report['latency-seconds'];
    const ordered = [0, min, p50, p90, p99, p999, max];
    t.deepEqual(
      ordered,
      [...ordered].sort((a, b) => a - b),
    );
  });
});

test('what cannot be had is one clear error', async (t) => {
  await withTmpDir(async (directory) => {
    const image = join(directory, 'image');
    program.run(['create', '-q', '-f', 'raw', image, '1M']);
    for (const args of [['-n'], ['-i', 'native'], ['-i', 'io_uring'], ['-d', '0']]) {
      const { status, stderr, text } = program.run(['bench', '-f', 'raw', ...args, image]);
      t.is(status, 1);
      t.is(text, '');
      t.regex(stderr, /^qemu-img: (aio=\S+ is not to be had here|Invalid queue depth)[^\n]*\n$/);
    }
  });
});

test('writes arrive where they are sent, and begin again at the disk’s start', async (t) => {
  await withTmpDir(async (directory) => {
    const filename = join(directory, 'image');
    program.run(['create', '-q', '-f', 'raw', filename, '64k']);
    const image = { filename, format: 'raw' };
    await bench({ image, write: true, pattern: 9, count: 3, depth: 1, bufferSize: 512, step: 32_768, offset: 512 });
    const { open } = await import('../../lib/images.ts');
    const disk = await open(filename, { format: 'raw' });
    const bytes = Buffer.alloc(65_536);
    await disk.read(0, bytes);
    await disk.close();
    const expected = Buffer.alloc(65_536);
    for (const at of [512, 33_280]) expected.fill(9, at, at + 512);
    t.true(bytes.equals(expected));
  });
});
