import { copyFileSync, existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { bundleProgram, type Program } from '../support/program.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';

const qemuImg = tool('qemu-img');
const qemuIo = tool('qemu-io');
let program: Program;

test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program.remove());

/** Runs both on their own copy of an image; says the same, leaves the same information, is clean and reads the same. */
function amendBoth(t: ExecutionContext, directory: string, image: string, args: readonly string[]): void {
  const what = args.join(' ');
  const theirs = join(directory, 'theirs');
  const before = shown(directory, image, 'before.raw');
  copyFileSync(image, theirs);
  const our = program.run(['amend', ...args, image]);
  const their = qemuImg.run(['amend', ...args, theirs]);
  t.is(our.stderr.replaceAll(image, 'X'), their.stderr.replaceAll(theirs, 'X'), what);
  t.is(our.text, their.text, what);
  t.is(our.status, their.status, what);
  t.deepEqual(info(image), info(theirs), what);
  t.is(qemuImg.run(['check', image]).status, 0, what);
  const after = shown(directory, image, 'after.raw');
  const length = Math.min(before.length, after.length);
  t.true(after.subarray(0, length).equals(before.subarray(0, length)), what);
}

function info(image: string): unknown {
  const {
    filename: _,
    'actual-size': __,
    ...rest
  } = JSON.parse(qemuImg.expect(['info', '-U', '--output=json', image]));
  return JSON.parse(JSON.stringify(rest, (key, value) => (['children', 'filename'].includes(key) ? undefined : value)));
}

function shown(directory: string, image: string, name: string): Buffer {
  const raw = join(directory, name);
  qemuImg.expect(['convert', '-f', 'qcow2', '-O', 'raw', image, raw]);
  return readFileSync(raw);
}

const SUBJECTS: Readonly<Record<string, { create: string[]; write?: string[]; steps: string[] }>> = {
  'a usual image': {
    create: ['-o', 'lazy_refcounts=on'],
    write: ['write -P 1 0 3M', 'write -z 1M 1M', 'write -z 5M 300k'],
    steps: [
      'lazy_refcounts=off',
      'lazy_refcounts=on',
      'compat=1.1',
      'compat=0.10,lazy_refcounts=on',
      'compat=0.9',
      'compat=0.10',
      'lazy_refcounts=on',
      'compat=v3,lazy_refcounts=on,size=9M',
      'compat=v2,size=8M',
      'size=1000',
      'refcount_bits=16',
      'refcount_bits=3',
      'backing_file=base',
      'backing_fmt=raw',
      'data_file=x',
      'data_file_raw=on',
      'cluster_size=4096',
      'compression_type=zstd',
      'encrypt.state=active',
      'what=ever',
      'lazy_refcounts=maybe',
      'size=much',
    ],
  },
  'zero clusters over a backing file': {
    create: ['-b', '{dir}/base', '-F', 'raw', '-o', 'cluster_size=4k'],
    write: ['write -P 1 0 1M', 'write -z 500k 3M', 'write -z -u 6M 1M'],
    steps: ['compat=0.10', 'backing_file={dir}/base,backing_fmt=raw', 'compat=1.1'],
  },
  'a small cluster': { create: ['-o', 'cluster_size=512,compat=0.10'], steps: ['compat=1.1', 'compat=0.10'] },
  'extended L2 entries': { create: ['-o', 'extended_l2=on'], steps: ['compat=0.10', 'lazy_refcounts=on'] },
  'wide refcounts': {
    create: ['-o', 'refcount_bits=64,cluster_size=512'],
    write: ['write -P 1 0 1M', 'write -P 2 7M 1M'],
    steps: [
      'compat=0.10',
      'refcount_bits=1',
      'refcount_bits=32,size=12M',
      'refcount_bits=16,compat=0.10',
      'refcount_bits=8',
    ],
  },
  'a raw data file': {
    create: ['-o', 'data_file={dir}/data,data_file_raw=on'],
    steps: ['data_file_raw=on', 'data_file_raw=off', 'data_file_raw=on', 'data_file={dir}/./data'],
  },
};

for (const [title, { create, write = [], steps }] of Object.entries(SUBJECTS)) {
  test(`${title} is amended as qemu-img does it`, (t) => {
    if (qemuImg.missing(t) || qemuIo.missing(t)) return;
    return withTmpDir(async (directory) => {
      const image = join(directory, 'ours');
      const base = join(directory, 'base');
      qemuImg.expect(['create', '-q', '-f', 'raw', base, '8M']);
      qemuIo.expect(['-f', 'raw', '-c', 'write -P 7 0 8M', base]);
      const args = create.map((arg) => arg.replaceAll('{dir}', directory));
      qemuImg.expect(['create', '-q', '-f', 'qcow2', ...args, image, '8M']);
      if (write.length > 0) qemuIo.expect([...write.flatMap((line) => ['-c', line]), image]);
      for (const step of steps) amendBoth(t, directory, image, ['-o', step.replaceAll('{dir}', directory)]);
    });
  });
}

test('the command line is understood as qemu-img understands it', (t) => {
  if (qemuImg.missing(t)) return;
  return withTmpDir(async (directory) => {
    const [image, raw, vmdk] = ['image', 'raw', 'vmdk'].map((name) => join(directory, name));
    qemuImg.expect(['create', '-q', '-f', 'qcow2', image, '1M']);
    qemuImg.expect(['create', '-q', '-f', 'raw', raw, '1M']);
    qemuImg.expect(['create', '-q', '-f', 'vmdk', vmdk, '1M']);
    for (const args of [
      [image],
      ['-o', 'compat=1.1'],
      ['-o', 'help'],
      ['-o', 'help', '-f', 'qcow2'],
      ['-o', 'help', image],
      ['-o', 'help', '-f', 'raw'],
      ['-o', 'help', '-f', 'nope'],
      ['-o', 'size=2M', '-f', 'raw', raw],
      ['-o', 'size=2M', vmdk],
      ['-o', 'compat=1.1', join(directory, 'missing')],
      ['-o', ',', image],
      ['-t', 'foo', '-o', 'compat=1.1', image],
      ['--force', '-q', '-o', 'compat=1.1', image],
      ['-p', '-o', 'compat=1.1', image],
      ['-o', 'compat=1.1', image, image],
    ]) {
      const ours = program.run(['amend', ...args]);
      const theirs = qemuImg.run(['amend', ...args]);
      t.is(ours.stderr, theirs.stderr, args.join(' '));
      t.is(ours.text, theirs.text, args.join(' '));
      t.is(ours.status, theirs.status, args.join(' '));
    }
  });
});

test('what would lose something is refused: snapshots, bitmaps, zstd', (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  return withTmpDir(async (directory) => {
    const image = join(directory, 'image');
    for (const [create, prepare, option, message] of [
      ['compat=1.1', ['snapshot', '-c', 's', image], 'compat=0.10', /Internal snapshots prevent downgrade/],
      ['compat=1.1', ['bitmap', '--add', image, 'b'], 'compat=0.10', /bitmaps prevent downgrade/],
      ['compression_type=zstd', ['info', image], 'compat=0.10', /incompatible features 0x8/],
    ] as const) {
      qemuImg.expect(['create', '-q', '-f', 'qcow2', '-o', create, image, '1M']);
      qemuImg.expect(prepare);
      const before = readFileSync(image);
      const { status, stderr } = program.run(['amend', '-o', option, image]);
      t.is(status, 1);
      t.regex(stderr, message);
      t.true(readFileSync(image).equals(before));
    }
    t.true(existsSync(image));
  });
});
