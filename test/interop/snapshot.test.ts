import { copyFileSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
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

/** Options of the image, and its first contents. */
const SUBJECTS: Readonly<Record<string, { options: string; write: string[] }>> = {
  'a usual image': { options: 'compat=1.1', write: ['write -P 1 0 3M', 'write -z 5M 1M'] },
  'version 2': { options: 'compat=0.10', write: ['write -P 1 0 3M'] },
  'clusters of 512 bytes': { options: 'cluster_size=512', write: ['write -P 1 100k 1M'] },
  'extended L2 entries': { options: 'extended_l2=on,cluster_size=32k', write: ['write -P 1 10k 2M'] },
  'compressed clusters': { options: 'refcount_bits=32', write: ['write -c -P 1 0 2M', 'write -P 9 2M 1M'] },
};

/** Each program makes some of the steps, in turn; after each the image must be clean and read as it should. */
for (const [title, { options, write }] of Object.entries(SUBJECTS)) {
  test(`${title}: snapshots of one program are the other's`, (t) => {
    if (qemuImg.missing(t) || qemuIo.missing(t)) return;
    return withTmpDir(async (directory) => {
      const image = join(directory, 'x');
      qemuImg.expect(['create', '-q', '-f', 'qcow2', '-o', options, image, '8M']);
      qemuIo.expect(['-f', 'qcow2', ...write.flatMap((line) => ['-c', line]), image]);
      const contents = new Map<string, Buffer>();
      const shown = (snapshot?: string): Buffer => {
        const raw = join(directory, 'raw');
        qemuImg.expect(['convert', '-O', 'raw', ...(snapshot ? ['-l', snapshot] : []), image, raw]);
        return readFileSync(raw);
      };
      const step = (who: 'ours' | 'theirs', ...args: string[]) => {
        const before = shown();
        const [action, name] = args;
        const tool = who === 'ours' ? program : qemuImg;
        const { status, stderr } = tool.run(['snapshot', ...args, image]);
        t.is(status, 0, `${args.join(' ')}: ${stderr}`);
        if (action === '-c') contents.set(name, before);
        if (action === '-d') contents.delete(name);
        const check = qemuImg.run(['check', image]);
        t.is(check.status, 0, `${who} ${args.join(' ')}: ${check.text}${check.stderr}`);
        const expected = action === '-a' ? (contents.get(name) as Buffer) : before;
        t.true(shown().equals(expected), `${who} ${args.join(' ')}: the disk`);
        for (const [each, bytes] of contents) t.true(shown(each).equals(bytes), `${who} ${args.join(' ')}: ${each}`);
        t.is(program.run(['snapshot', '-l', image]).text, qemuImg.run(['snapshot', '-l', image]).text);
      };
      step('ours', '-c', 'first');
      qemuIo.expect(['-c', 'write -P 2 1M 1M', '-c', 'write -P 3 7M 64k', image]);
      step('theirs', '-c', 'second');
      step('ours', '-c', 'third');
      qemuIo.expect(['-c', 'write -P 4 1500k 1M', image]);
      step('ours', '-a', 'first');
      step('theirs', '-a', 'second');
      step('theirs', '-d', 'first');
      qemuIo.expect(['-c', 'write -P 5 0 100k', image]);
      step('ours', '-d', 'second');
      step('ours', '-a', 'third');
      step('ours', '-d', 'third');
      qemuIo.expect(['-c', 'write -P 6 0 8M', image]);
      t.is(qemuImg.run(['check', image]).status, 0);
    });
  });
}

test('a disk that was resized since gets its size back, in both directions', (t) => {
  if (qemuImg.missing(t)) return;
  return withTmpDir(async (directory) => {
    const image = join(directory, 'x');
    qemuImg.expect(['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=4k', image, '4M']);
    const size = () => JSON.parse(qemuImg.expect(['info', '--output=json', image]))['virtual-size'];
    program.run(['snapshot', '-c', 'small', image]);
    qemuImg.expect(['resize', '-q', image, '40M']);
    program.run(['snapshot', '-c', 'large', image]);
    for (const [name, expected] of [
      ['small', 4],
      ['large', 40],
      ['small', 4],
    ] as const) {
      t.is(program.run(['snapshot', '-a', name, image]).status, 0);
      t.is(size(), expected * 1024 * 1024);
      t.is(qemuImg.run(['check', image]).status, 0);
    }
  });
});

test('what is refused is refused in the same words, and the image stays as it was', (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  return withTmpDir(async (directory) => {
    const made = (name: string, ...args: string[]): string => {
      const image = join(directory, name);
      qemuImg.expect(['create', '-q', ...args.map((arg) => arg.replace('{dir}', directory)), image, '4M']);
      return image;
    };
    const plain = made('plain', '-f', 'qcow2');
    qemuImg.expect(['snapshot', '-c', 'name', plain]);
    const external = made('external', '-f', 'qcow2', '-o', 'data_file={dir}/data');
    const marked = made('marked', '-f', 'qcow2');
    qemuImg.expect(['snapshot', '-c', 'name', marked]);
    qemuImg.expect(['bitmap', '--add', marked, 'b']);
    const other = made('other', '-f', 'vmdk');
    for (const args of [
      ['-a', 'nope', plain],
      ['-d', 'nope', plain],
      // Ids don't count.
      ['-d', '1', plain],
      ['-d', '', plain],
      ['-l', '-c', 'x', plain],
      ['-l', plain, plain],
      ['-c'],
      ['-U', '-c', 'x', plain],
      ['-f', 'qcow2', '-l', plain],
      ['-l', join(directory, 'missing')],
      ['-c', 'x', external],
      ['-a', 'x', external],
      ['-d', 'x', external],
      ['-a', 'name', marked],
      ['-l', other],
      ['-c', 'x', other],
      ['-a', 'x', other],
      ['-d', 'x', other],
    ]) {
      const image = args.at(-1) as string;
      const before = image.startsWith('/') && !image.endsWith('missing') ? readFileSync(image) : null;
      const ours = program.run(['snapshot', ...args]);
      if (before !== null) t.true(readFileSync(image).equals(before), args.join(' '));
      const theirs = qemuImg.run(['snapshot', ...args]);
      t.is(ours.stderr, theirs.stderr, args.join(' '));
      t.is(ours.text, theirs.text, args.join(' '));
      t.is(ours.status, theirs.status, args.join(' '));
    }
  });
});

test('a refcount that would overflow refuses the snapshot and leaves the image as it was', (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  return withTmpDir(async (directory) => {
    const [image, copy] = ['x', 'copy'].map((name) => join(directory, name));
    qemuImg.expect(['create', '-q', '-f', 'qcow2', '-o', 'refcount_bits=1', image, '4M']);
    qemuIo.expect(['-c', 'write 0 2M', image]);
    copyFileSync(image, copy);
    const { status, stderr } = program.run(['snapshot', '-c', 'x', image]);
    t.is(status, 1);
    t.is(stderr, "qemu-img: Could not create snapshot 'x': A reference count would overflow\n");
    t.true(readFileSync(image).equals(readFileSync(copy)));
  });
});
