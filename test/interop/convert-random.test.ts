import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { type ConvertOptions, compare, convert, dd, map, measure } from '../../lib/index.ts';
import { Random } from '../support/model.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';

const qemuImg = tool('qemu-img');
const qemuIo = tool('qemu-io');
const MIB = 1024 * 1024;

/** What a random image is made of. */
interface Made {
  path: string;
  format: string;
  size: number;
}

const CREATE_OPTIONS = [
  'cluster_size=64k',
  'cluster_size=4k',
  'cluster_size=512',
  'cluster_size=2M',
  'compat=0.10',
  'extended_l2=on',
];

/** Fills an image with writes, zeros and discards at random places. */
function scribble({ path, format, size }: Made, random: Random, steps: number): void {
  const commands: string[] = [];
  for (let step = 0; step < steps; step += 1) {
    const offset = random.below(size / 512 - 1) * 512;
    const length = Math.min(size - offset, (1 + random.below(random.pick([8, 300, 4000]))) * 512);
    const what = random.pick([
      'write -P 0',
      'write -z',
      `write -P ${1 + random.below(255)}`,
      `write -P ${1 + random.below(255)}`,
      'discard',
    ]);
    commands.push('-c', `${what} ${offset} ${length}`);
  }
  qemuIo.expect(['-f', format, ...commands, path]);
}

function makeImage(directory: string, name: string, random: Random): Made {
  const format = random.pick(['raw', 'qcow2', 'qcow2', 'qcow2']);
  const size = (1 + random.below(24 * 2048)) * 512;
  const made = { path: join(directory, name), format, size };
  const options = format === 'qcow2' ? ['-o', random.pick(CREATE_OPTIONS)] : [];
  const backing: string[] = [];
  if (format === 'qcow2' && random.below(2) === 0) {
    const below = makeImage(directory, `${name}-below`, random);
    backing.push('-b', below.path, '-F', below.format);
  }
  qemuImg.expect(['create', '-q', '-f', format, ...options, ...backing, made.path, String(size)]);
  scribble(made, random, 12);
  return made;
}

/** Random options of convert, for the library and for qemu-img. */
function pickOptions(random: Random): { ours: Partial<ConvertOptions>; theirs: string[] } {
  const ours: Partial<ConvertOptions> = {};
  const theirs: string[] = [];
  const outputFormat = random.pick(['raw', 'qcow2', 'qcow2']);
  ours.outputFormat = outputFormat;
  theirs.push('-O', outputFormat);
  if (random.below(2) === 0) {
    ours.sparseSize = random.pick([0, 512, 4096, 65536]);
    theirs.push('-S', String(ours.sparseSize));
  }
  if (outputFormat === 'qcow2') {
    const [key, value] = random.pick(CREATE_OPTIONS).split('=');
    ours.createOptions = { [key]: value };
    theirs.push('-o', `${key}=${value}`);
    if (random.below(3) === 0) {
      ours.compress = true;
      theirs.push('-c');
    }
  }
  ours.parallel = 1 + random.below(16);
  ours.outOfOrder = random.below(2) === 0;
  return { ours, theirs };
}

function mapOf(path: string, format: string): { start: number; length: number; zero: boolean; data: boolean }[] {
  return JSON.parse(qemuImg.expect(['map', '--output=json', '-f', format, path]));
}

/** Where a map says data. */
function dataOf(path: string, format: string): string[] {
  return mapOf(path, format)
    .filter(({ data }) => data)
    .map(({ start, length }) => `${start}+${length}`);
}

for (let seed = 1; seed <= 14; seed += 1) {
  test(`converts a random image as qemu-img does (seed ${seed})`, async (t) => {
    if (qemuImg.missing(t) || qemuIo.missing(t)) return;
    await withTmpDir(async (directory) => {
      const random = new Random(seed);
      const made = makeImage(directory, 'source', random);
      const { ours, theirs } = pickOptions(random);
      t.log(made.format, made.size, theirs.join(' '), ours.parallel, ours.outOfOrder);
      const [out, expected] = [join(directory, 'ours'), join(directory, 'theirs')];
      const source = { filename: made.path, format: made.format };
      const result = await convert({ ...ours, inputs: [source], output: { filename: out } });
      t.is(result.size, made.size);
      qemuImg.expect(['convert', '-f', made.format, ...theirs, made.path, expected]);
      const format = ours.outputFormat as string;
      qemuImg.expect(['compare', '-f', made.format, '-F', format, made.path, out]);
      if (format === 'qcow2') qemuImg.expect(['check', '-q', out]);
      else t.deepEqual(dataOf(out, format), dataOf(expected, format));
      t.true(statSync(out).blocks <= statSync(expected).blocks * 1.1 + 256);
      const right = { filename: out, format };
      t.true((await compare({ left: source, right })).identical);
      const maps = [];
      for await (const { filename: _filename, ...entry } of map({ image: source })) maps.push(entry);
      t.deepEqual(maps, mapOf(made.path, made.format) as never);
      const measured = JSON.parse(
        qemuImg.expect(['measure', '-f', made.format, '-O', 'qcow2', '--output=json', made.path]),
      );
      t.is((await measure({ image: source, outputFormat: 'qcow2' })).required, measured.required);
    });
  });
}

test('a random overlay is converted over its backing file as qemu-img does', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  for (let seed = 100; seed < 105; seed += 1) {
    await withTmpDir(async (directory) => {
      const random = new Random(seed);
      const base = makeImage(directory, 'base', random);
      const size = base.size + random.below(3) * MIB;
      const top = { path: join(directory, 'top'), format: 'qcow2', size };
      const sizes = [random.pick(CREATE_OPTIONS.slice(0, 2)), random.pick(CREATE_OPTIONS.slice(0, 2))];
      const create = ['create', '-q', '-f', 'qcow2', '-o', sizes[0], '-b', base.path, '-F', base.format, top.path];
      qemuImg.expect([...create, String(size)]);
      scribble(top, random, 10);
      const [key, value] = sizes[1].split('=');
      const out = join(directory, 'ours');
      await convert({
        inputs: [{ filename: top.path }],
        output: { filename: out },
        outputFormat: 'qcow2',
        createOptions: { [key]: value },
        backing: { filename: base.path, format: base.format },
        compress: random.below(2) === 0,
      });
      t.is(qemuImg.run(['compare', top.path, out]).status, 0, `seed ${seed}`);
      qemuImg.expect(['check', '-q', out]);
      const depths = (path: string) => {
        const found = JSON.parse(qemuImg.expect(['map', '--output=json', path])) as { depth: number; length: number }[];
        return found.filter(({ depth }) => depth === 0).reduce((sum, { length }) => sum + length, 0);
      };
      // Not everything was copied: as much is left below as in the source, but for what larger clusters bring.
      t.true(depths(out) <= depths(top.path) + 10 * 2 * 65536, `seed ${seed}`);
    });
  }
});

test('converting onto an existing image overwrites all of the source and nothing behind it', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  for (const format of ['raw', 'qcow2']) {
    for (let seed = 200; seed < 203; seed += 1) {
      await withTmpDir(async (directory) => {
        const random = new Random(seed);
        const made = makeImage(directory, 'source', random);
        const size = made.size + MIB;
        const targets = ['ours', 'theirs'].map((name) => join(directory, name));
        for (const path of targets) {
          qemuImg.expect(['create', '-q', '-f', format, path, String(size)]);
          qemuIo.expect(['-f', format, '-c', `write -P 201 0 ${size}`, path]);
        }
        const source = { filename: made.path, format: made.format };
        await convert({ inputs: [source], output: { filename: targets[0] }, outputFormat: format, create: false });
        qemuImg.expect(['convert', '-n', '-f', made.format, '-O', format, made.path, targets[1]]);
        t.is(qemuImg.run(['compare', '-f', format, '-F', format, ...targets]).status, 0, `${format} ${seed}`);
        if (format === 'qcow2') qemuImg.expect(['check', '-q', targets[0]]);
      });
    }
  }
});

test('several images become one disk as qemu-img concatenates them', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const random = new Random(300);
    const images = ['a', 'b', 'c', 'd'].map((name) => makeImage(directory, name, random));
    const [out, expected] = [join(directory, 'ours'), join(directory, 'theirs')];
    const inputs = images.map(({ path, format }) => ({ filename: path, format }));
    for (const outputFormat of ['raw', 'qcow2']) {
      const same = images.filter(({ format }) => format === 'qcow2').map(({ path }) => path);
      await convert({
        inputs: inputs.filter(({ format }) => format === 'qcow2'),
        output: { filename: out },
        outputFormat,
      });
      qemuImg.expect(['convert', '-f', 'qcow2', '-O', outputFormat, ...same, expected]);
      t.is(qemuImg.run(['compare', '-f', outputFormat, '-F', outputFormat, out, expected]).status, 0);
    }
    t.is(
      (await convert({ inputs, output: { filename: out } })).size,
      images.reduce((sum, { size }) => sum + size, 0),
    );
  });
});

test('dd takes what qemu-img dd takes, for odd sizes too', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const random = new Random(400);
    const [out, expected] = [join(directory, 'ours'), join(directory, 'theirs')];
    for (let round = 0; round < 12; round += 1) {
      const made = makeImage(directory, `source${round}`, random);
      const blockSize = random.pick([1000, 512, 65536, 12345, 3 * MIB]);
      const blocks = Math.ceil(made.size / blockSize);
      const count = random.below(2) === 0 ? undefined : random.below(2 * blocks);
      const skip = random.below(2) === 0 ? undefined : random.below(blocks + 2);
      const args = [`bs=${blockSize}`];
      if (count !== undefined) args.push(`count=${count}`);
      if (skip !== undefined) args.push(`skip=${skip}`);
      const said = qemuImg.run(['dd', '-f', made.format, '-O', 'raw', ...args, `if=${made.path}`, `of=${expected}`]);
      const warnings: string[] = [];
      const result = await dd({
        input: { filename: made.path, format: made.format },
        output: { filename: out },
        blockSize,
        count,
        skip,
        onWarning: (text) => void warnings.push(`qemu-img: ${text}\n`),
      });
      t.true(readFileSync(out).equals(readFileSync(expected)), args.join(' '));
      t.is(result.size, statSync(expected).size);
      t.is(warnings.join(''), said.stderr);
    }
  });
});

test('compare finds what qemu-img compare finds, strictly and not', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  for (let seed = 500; seed < 516; seed += 1) {
    await withTmpDir(async (directory) => {
      const random = new Random(seed);
      const left = makeImage(directory, 'left', random);
      const right = { path: join(directory, 'right'), format: random.pick(['raw', 'qcow2']), size: left.size };
      qemuImg.expect(['convert', '-f', left.format, '-O', right.format, left.path, right.path]);
      if (random.below(3) === 0) qemuImg.expect(['resize', '-q', '-f', right.format, right.path, `+${MIB}`]);
      if (random.below(3) > 0) scribble(right, random, 1);
      for (const strict of [false, true]) {
        const args = [
          'compare',
          ...(strict ? ['-s'] : []),
          '-f',
          left.format,
          '-F',
          right.format,
          left.path,
          right.path,
        ];
        const said = qemuImg.run(args);
        const { identical, difference } = await compare({
          left: { filename: left.path, format: left.format },
          right: { filename: right.path, format: right.format },
          strict,
        });
        t.is(identical, said.status === 0, `seed ${seed} ${said.text}`);
        const offset = /offset (\d+)!|Offset (\d+) /i.exec(said.text);
        if (offset === null) continue;
        const found = difference !== null && 'offset' in difference ? difference.offset : null;
        t.is(found, Number(offset[1] ?? offset[2]), `seed ${seed} ${strict} ${said.text}`);
      }
    });
  }
});
