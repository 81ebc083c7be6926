import { copyFileSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import {
  decodeBitmapsExtension,
  decodeHeader,
  decodeTail,
  ExtensionType,
  findExtension,
} from '../../lib/layouts/qcow2/index.ts';
import { openFile } from '../../lib/storage/file.ts';
import { type BitmapState, bitmapsOf } from '../support/bitmaps.ts';
import { Random } from '../support/model.ts';
import { bundleProgram, type Program } from '../support/program.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';

const qemuImg = tool('qemu-img');
const qemuIo = tool('qemu-io');
const qemuNbd = tool('qemu-nbd');
let program: Program;
test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program?.remove());

type Range = { offset: number; length: number };

/** What qemu-nbd says is marked, of each bitmap. */
function marksByQemu(directory: string, image: string, names: readonly string[]): Record<string, Range[]> {
  const socket = join(directory, 'nbd');
  const pid = join(directory, 'nbd.pid');
  const exported = names.flatMap((name) => ['-B', name]);
  qemuNbd.expect(['-r', '-t', '-f', 'qcow2', '-k', socket, ...exported, '--fork', `--pid-file=${pid}`, image]);
  try {
    return Object.fromEntries(names.map((name) => [name, dirtyRanges(socket, name)]));
  } finally {
    process.kill(Number(readFileSync(pid, 'utf8')));
  }
}

function dirtyRanges(socket: string, name: string): Range[] {
  const node = `driver=nbd,server.type=unix,server.path=${socket},x-dirty-bitmap=qemu:dirty-bitmap:${name}`;
  const entries = JSON.parse(qemuImg.expect(['map', '--output=json', '--image-opts', node]));
  // Through this option, marked is what qemu-img takes for no data.
  return entries
    .filter(({ data }: { data: boolean }) => !data)
    .map(({ start, length }: { start: number; length: number }) => ({ offset: start, length }));
}

async function ours(image: string): Promise<BitmapState[]> {
  const storage = await openFile(image, {});
  try {
    return (await bitmapsOf(storage)).bitmaps;
  } finally {
    await storage.close();
  }
}

/** Both see the same bitmaps with the same marks, and nothing is wrong with the image. */
async function sameBitmaps(
  t: ExecutionContext,
  directory: string,
  image: string,
  what: string,
): Promise<BitmapState[]> {
  const found = await ours(image);
  const names = found.map(({ name }) => name);
  const theirs = found.length > 0 ? marksByQemu(directory, image, names) : {};
  for (const { name, marks } of found) t.deepEqual(marks, theirs[name], `${what}: ${name}`);
  t.is(qemuImg.run(['check', image]).status, 0, what);
  return found;
}

const RESULTS_OF_LINES = `
  --add I b0
  --add I a
  --add -g 512 I b1
  --add -g 0 I b1
  --add -g 1 I b2
  --add -g 256 I b2
  --add -g 1000 I b2
  --add -g 1k I a
  --add -g 2G I b2
  --add -g 4G I b2
  --add -g foo I b2
  --add -g 9E I b2
  --add -g 300 I a
  --add V b0
  --remove V b0
  --add -f raw R b0
  --remove -f raw R b0
  --clear -f raw R b0
  --enable -f raw R b0
  --merge a -f raw R b0
  --remove I nope
  --clear I nope
  --enable I nope
  --disable I nope
  --merge nope I a
  --merge a I nope
  --merge a I a
  --merge d I a
  --merge a I d
  --merge d --merge a --add -g 4k I m
  --add --merge d --merge a -g 4k I m
  I a
  --add I
  --add
  NOTHING
  --add I b b
  --add --add I b9
  --add --disable I d0
  --disable --add I d2
  --add --enable --disable I d3
  --clear -g 1k I a
  --clear -g 0 I a
  --add -b I I z
  --add -F qcow2 I z
  --merge a -F qcow2 I z
  --merge a -b nofile I d
  --merge a -b O I d
  --merge a -b O -F qcow2 I a
  --merge nope -b O I a
  --merge a -b L I a
  --merge a -b R -F raw I a
  --merge a -b V I a
  --add nofile z
  -x I b0
  -q --add I b0
  --add --image-opts driver=qcow2,file.filename=I io
  --add --image-opts -f qcow2 I io
  --add --clear -g 1k I gh
  --add --remove --add I gi
  --remove --clear I a
  --add -f foo I gl
  --merge a -b O -F foo I a
  --remove --remove I u
  --add U u
  --clear U u
  --enable U u
  --disable U u
  --merge u U a
  --merge a U u
  --merge u -b U I a
  --remove U u
`
  .trim()
  .split('\n')
  .map((line) => line.trim());

/** A bitmap's entry says that it was not stored properly, as after a crash of its writer. */
function markInUse(image: string): void {
  const bytes = readFileSync(image);
  const extension = findExtension(decodeTail(bytes, decodeHeader(bytes)).extensions, ExtensionType.bitmaps);
  const { directoryOffset } = decodeBitmapsExtension(extension as Buffer);
  bytes.writeUInt32BE(bytes.readUInt32BE(directoryOffset + 12) | 1, directoryOffset + 12);
  writeFileSync(image, bytes);
}

/** The images of the lines, with the letters that stand for them. */
function makeImages(directory: string): Record<string, string> {
  const paths = Object.fromEntries(['I', 'O', 'L', 'V', 'R', 'U'].map((letter) => [letter, join(directory, letter)]));
  const { I, O, L, V, R, U } = paths;
  qemuImg.expect(['create', '-q', '-f', 'qcow2', I, '1000k']);
  for (const image of [I]) {
    qemuImg.expect(['bitmap', '--add', image, 'a']);
    qemuIo.expect(['-f', 'qcow2', '-c', 'write 70000 100', '-c', 'discard 800k 64k', image]);
    qemuImg.expect(['bitmap', '--add', '-g', '512', '--disable', image, 'd']);
  }
  copyFileSync(I, O);
  qemuImg.expect(['create', '-q', '-f', 'qcow2', L, '2000k']);
  qemuImg.expect(['bitmap', '--add', L, 'a']);
  qemuImg.expect(['create', '-q', '-f', 'qcow2', '-o', 'compat=0.10', V, '1000k']);
  qemuImg.expect(['create', '-q', '-f', 'raw', R, '1000k']);
  qemuImg.expect(['create', '-q', '-f', 'qcow2', U, '1000k']);
  qemuImg.expect(['bitmap', '--add', U, 'u']);
  qemuImg.expect(['bitmap', '--add', U, 'a']);
  markInUse(U);
  return paths;
}

/** QEMU makes names up for nodes; ours say the file. */
function withoutNodes(text: string): string {
  return text.replace(/(persistent in '|bitmaps to )[^':]*/, '$1node');
}

test('bitmap does and says what qemu-img does and says', async (t) => {
  if ([qemuImg, qemuIo].some((each) => each.missing(t))) return;
  await withTmpDir(async (directory) => {
    const paths = makeImages(directory);
    const kept = Object.fromEntries(Object.entries(paths).map(([letter, path]) => [letter, readFileSync(path)]));
    for (const line of RESULTS_OF_LINES) {
      const words = line === 'NOTHING' ? [] : line.split(' ');
      const args = ['bitmap', ...words.map((word) => word.replace(/[IOLVRU]$/, (letter) => paths[letter] ?? letter))];
      const results: unknown[] = [];
      for (const each of [program, qemuImg]) {
        for (const [letter, bytes] of Object.entries(kept)) writeFileSync(paths[letter], bytes);
        const { status, stderr, text } = each.run(args);
        const bitmaps = [await ours(paths.I), await ours(paths.U)];
        results.push({ status, stderr: withoutNodes(stderr), text, bitmaps });
      }
      t.deepEqual(results[0], results[1], line);
    }
  });
});

const SHAPES = [
  { size: 1_000_448, clusterSize: '512', granularities: ['512', '4k', '1M'] },
  { size: 300 * 2 ** 20 + 512, clusterSize: '4096', granularities: ['512', '64k', '16M'] },
  { size: 2 ** 30, clusterSize: '2M', granularities: ['512', '128k', '2G'] },
];

for (const { size, clusterSize, granularities } of SHAPES) {
  test(`bitmaps of ${size} bytes in clusters of ${clusterSize}, changed in turns, are the same to both`, async (t) => {
    if ([qemuImg, qemuIo, qemuNbd].some((each) => each.missing(t))) return;
    await withTmpDir(async (directory) => {
      const random = new Random(size);
      const image = join(directory, 'image');
      qemuImg.expect(['create', '-q', '-f', 'qcow2', '-o', `cluster_size=${clusterSize}`, image, String(size)]);
      const run = (args: string[]) => {
        const result = random.pick([program, qemuImg]).run(args);
        t.is(result.status, 0, `${args.join(' ')}: ${result.stderr}`);
      };
      for (const granularity of granularities) run(['bitmap', '--add', '-g', granularity, image, `g${granularity}`]);
      const names = granularities.map((granularity) => `g${granularity}`);
      for (let step = 0; step < 2; step += 1) {
        const writes = Array.from({ length: 4 }, () => {
          const length = 1 + random.below(200_000);
          return ['-c', `write -q ${random.below(size - length)} ${length}`];
        });
        qemuIo.expect(['-f', 'qcow2', ...writes.flat(), image]);
        run(['bitmap', '--merge', random.pick(names), image, random.pick(names)]);
        run(['bitmap', random.pick(['--clear', '--disable', '--enable']), image, random.pick(names)]);
      }
      await sameBitmaps(t, directory, image, 'in the end');
      const before = await ours(image);
      for (const each of [program, qemuImg]) {
        const copy = join(directory, 'copy');
        t.is(each.run(['convert', '-O', 'qcow2', '--bitmaps', image, copy]).status, 0);
        t.deepEqual(await sameBitmaps(t, directory, copy, 'convert'), before);
      }
      const resized: BitmapState[][] = [];
      for (const each of [program, qemuImg]) {
        const copy = join(directory, `resized${resized.length}`);
        copyFileSync(image, copy);
        for (const sizeText of [size * 2, Math.floor(size / 1536) * 512, size]) {
          t.is(each.run(['resize', '--shrink', copy, String(sizeText)]).status, 0);
        }
        resized.push(await sameBitmaps(t, directory, copy, 'resize'));
      }
      t.deepEqual(resized[0], resized[1]);
    });
  });
}

test('what convert -n writes is recorded in the bitmaps of the output, as qemu-img records it', async (t) => {
  if ([qemuImg, qemuIo, qemuNbd].some((each) => each.missing(t))) return;
  await withTmpDir(async (directory) => {
    const [source, base] = ['source', 'base'].map((name) => join(directory, name));
    qemuImg.expect(['create', '-q', '-f', 'qcow2', source, '10M']);
    qemuIo.expect(['-f', 'qcow2', '-c', 'write 64k 128k', '-c', 'write 5M 64k', source]);
    qemuImg.expect(['create', '-q', '-f', 'qcow2', base, '10M']);
    qemuImg.expect(['bitmap', '--add', '-g', '512', base, 'fine']);
    qemuImg.expect(['bitmap', '--add', base, 'usual']);
    qemuImg.expect(['bitmap', '--add', '--disable', base, 'disabled']);
    const results: BitmapState[][] = [];
    for (const each of [program, qemuImg]) {
      const image = join(directory, 'image');
      copyFileSync(base, image);
      // Without zeros, so that what is written is a part of the disk.
      t.is(each.run(['convert', '-n', '--target-is-zero', '-O', 'qcow2', source, image]).status, 0);
      results.push(await sameBitmaps(t, directory, image, 'convert -n'));
    }
    t.deepEqual(results[0], results[1]);
    t.true((results[0][0].marks?.length ?? 0) > 0);
  });
});

test('a bitmap of a large disk that is written all over takes no space for it, and qemu-img reads and goes on with it', async (t) => {
  if ([qemuImg, qemuIo, qemuNbd].some((each) => each.missing(t))) return;
  await withTmpDir(async (directory) => {
    const [source, image] = ['source', 'image'].map((name) => join(directory, name));
    qemuImg.expect(['create', '-q', '-f', 'qcow2', source, '9G']);
    qemuIo.expect(['-f', 'qcow2', '-c', 'write 1G 64k', source]);
    qemuImg.expect(['create', '-q', '-f', 'qcow2', image, `${9 * 1024 ** 3 + 512}`]);
    qemuImg.expect(['bitmap', '--add', '-g', '512', image, 'fine']);
    t.is(program.run(['convert', '-n', '-O', 'qcow2', source, image]).status, 0);
    const [{ marks }] = await sameBitmaps(t, directory, image, 'convert -n');
    t.deepEqual(marks, [{ offset: 0, length: 9 * 1024 ** 3 }]);
    t.true(statSync(image).size < 1024 * 1024);
    // What QEMU writes adds to it, and what is written then in a part of it changes nothing.
    qemuIo.expect(['-f', 'qcow2', '-c', `write ${9 * 1024 ** 3} 512`, image]);
    t.is(program.run(['convert', '-n', '--target-is-zero', '-O', 'qcow2', source, image]).status, 0);
    const [after] = await sameBitmaps(t, directory, image, 'written once more');
    t.deepEqual(after.marks, [{ offset: 0, length: 9 * 1024 ** 3 + 512 }]);
  });
});
