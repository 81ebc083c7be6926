import { statSync } from 'node:fs';
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

interface Subject {
  format: string;
  /** For qemu-img create. `{dir}` is the image's directory. */
  create: string[];
  /** Lines for qemu-io, on the new image. */
  write?: string[];
  /** A snapshot is taken. */
  snapshot?: boolean;
  /** Arguments of each resize, with `F` for the image. */
  steps: string[];
}

const SUBJECTS: Record<string, Subject> = {
  'a qcow2 image with data at both ends': {
    format: 'qcow2',
    create: ['x', '1G'],
    write: ['write -P 7 0 3M', 'write -P 8 900M 1M'],
    steps: [
      '--shrink F 2M',
      '--preallocation=metadata F 64M',
      '--preallocation=falloc F 70M',
      '--shrink F 33333337',
      'F 33333337',
      '--shrink F 10M',
      '--preallocation=full F +20M',
      '--preallocation=falloc --shrink F 1M',
      '--shrink F -5M',
      'F -- -1M',
    ],
  },
  'a qcow2 image with a snapshot': {
    format: 'qcow2',
    create: ['x', '10M'],
    write: ['write -P 3 0 10M'],
    snapshot: true,
    steps: ['F 20M', '--shrink F 5M'],
  },
  'a version 2 image with a snapshot': {
    format: 'qcow2',
    create: ['-o', 'compat=0.10', 'x', '10M'],
    snapshot: true,
    steps: ['F 20M'],
  },
  'a qcow2 image over a longer backing file': {
    format: 'qcow2',
    create: ['-b', '{dir}/base', '-F', 'raw', 'x', '10M'],
    steps: ['F 20M', '--preallocation=metadata F 30M', '--shrink F 5M', 'F 20M'],
  },
  'subclusters over a longer backing file': {
    format: 'qcow2',
    create: ['-o', 'extended_l2=on', '-b', '{dir}/base', '-F', 'raw', 'x', '10M'],
    steps: ['F 20M', '--preallocation=metadata F 30M', '--shrink F 5M'],
  },
  'a qcow2 image with a data file': {
    format: 'qcow2',
    create: ['-o', 'data_file={dir}/data', 'x', '10M'],
    write: ['write -P 3 1M 8M'],
    steps: ['F 20M', '--shrink F 5M', '--preallocation=full F 12M'],
  },
  'a qcow2 image with a raw data file': {
    format: 'qcow2',
    create: ['-o', 'data_file={dir}/data,data_file_raw=on', 'x', '10M'],
    steps: ['F 20M', '--preallocation=off F 30M'],
  },
  'small clusters': {
    format: 'qcow2',
    create: ['-o', 'cluster_size=512', 'x', '2M'],
    write: ['write -P 3 0 2M'],
    steps: ['F 80M', '--shrink F 1000448', 'F 3M'],
  },
  'a qed image': {
    format: 'qed',
    create: ['x', '10M'],
    write: ['write -P 3 1M 1M'],
    steps: ['F 20M', '--shrink F 5M', '--preallocation=falloc F 30M'],
  },
  'a raw image': {
    format: 'raw',
    create: ['x', '1M'],
    write: ['write -P 3 0 1M'],
    steps: [
      'F 2M',
      'F 1000001',
      '--shrink F 1000001',
      '--preallocation=full F 1500001',
      '--preallocation=metadata --shrink F 2M',
      '-q F +1M',
      'F 0',
      'F 8E',
      'F 16E',
      'F xx',
      'F',
      'F 10M 20M',
      '--shrink F 0x100000',
      '-q F 0X200000',
      'F +0x200',
      'F -- -0x200',
      'F 0x100001k',
      'F 0x4Mx',
      'F ++5M',
      'F +++5M',
      '--shrink F -+1k',
      'F .5M',
      'F 1.5',
      'F 1e7',
      'F 0x',
      'F 0x8000000000000000',
      'F 0x10000000000000000',
      'F 18446744073709551615',
      'F 18446744073709551616',
      'F -8E',
    ],
  },
  'a vdi image': { format: 'vdi', create: ['x', '10M'], steps: ['F 20M', '--shrink F 5M'] },
};

function make(directory: string, { format, create, write = [], snapshot }: Subject): string {
  const [image, base] = ['x', 'base'].map((name) => join(directory, name));
  qemuImg.expect(['create', '-q', '-f', 'raw', base, '40M']);
  qemuIo.expect(['-f', 'raw', '-c', 'write -P 5 0 40M', base]);
  const args = create.map((arg) => (arg === 'x' ? image : arg.replaceAll('{dir}', directory)));
  qemuImg.expect(['create', '-q', '-f', format, ...args]);
  if (write.length > 0) qemuIo.expect(['-f', format, ...write.flatMap((line) => ['-c', line]), image]);
  if (snapshot) qemuImg.expect(['snapshot', '-c', 'a', image]);
  return image;
}

function resizeBoth(
  t: ExecutionContext,
  step: string,
  format: string,
  [ours, theirs]: readonly [string, string],
): void {
  const args = (image: string) => [
    'resize',
    '-f',
    format,
    ...step.split(' ').map((word) => (word === 'F' ? image : word)),
  ];
  const our = program.run(args(ours));
  const their = qemuImg.run(args(theirs));
  t.is(our.stderr.replaceAll(ours, 'X'), their.stderr.replaceAll(theirs, 'X'), step);
  t.is(our.text, their.text, step);
  t.is(our.status, their.status, step);
  t.is(qemuImg.run(['compare', '-f', format, '-F', format, ours, theirs]).status, 0, `${step}: contents`);
  if (format === 'qcow2' || format === 'qed') {
    t.is(qemuImg.run(['check', '-q', '-f', format, ours]).status, 0, `${step}: check`);
  }
}

for (const [name, subject] of Object.entries(SUBJECTS)) {
  test(`resizing ${name} does and says what qemu-img does and says`, async (t) => {
    if (qemuImg.missing(t) || qemuIo.missing(t)) return;
    await withTmpDir(async (mine) => {
      await withTmpDir(async (other) => {
        const images = [make(mine, subject), make(other, subject)] as const;
        for (const step of subject.steps) resizeBoth(t, step, subject.format, images);
      });
    });
  });
}

test('shrinking gives the end of the file back', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const image = make(directory, { format: 'qcow2', create: ['x', '64M'], write: ['write 0 64M'], steps: [] });
    t.is(program.run(['resize', '--shrink', image, '1M']).status, 0);
    t.true(statSync(image).size < 2 * 1024 * 1024);
  });
});

test('a version 2 image grows over a longer backing file, which qemu-img cannot do, and hides it', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const create = ['-o', 'compat=0.10', '-b', '{dir}/base', '-F', 'raw', 'x', '10M'];
    const image = make(directory, { format: 'qcow2', create, steps: [] });
    t.is(program.run(['resize', image, '20M']).status, 0);
    const read = qemuIo.run(['-r', '-c', 'read -P 0 10M 10M', '-c', 'read -P 5 0 10M', image]);
    t.false(/Pattern verification failed/.test(read.text), read.text);
    t.is(qemuImg.run(['check', '-q', image]).status, 0);
  });
});
