import { copyFileSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { commit, ImageError, rebase } from '../../lib/index.ts';
import { pattern, Random } from '../support/model.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';

const qemuImg = tool('qemu-img');
const qemuIo = tool('qemu-io');
const SECTOR = 512;

interface Made {
  path: string;
  format: string;
  size: number;
}

const OPTIONS: Readonly<Record<string, readonly string[]>> = {
  qcow2: ['cluster_size=64k', 'cluster_size=4k', 'cluster_size=512', 'compat=0.10', 'extended_l2=on'],
  qed: ['cluster_size=4k,table_size=2'],
};

function create(made: Made, random: Random, below: Made | null): void {
  const { path, format, size } = made;
  const [options] = [OPTIONS[format] ?? []];
  const chosen = options.length > 0 ? ['-o', random.pick(options)] : [];
  const backing = below === null ? [] : ['-b', below.path, '-F', below.format];
  qemuImg.expect(['create', '-q', '-f', format, ...chosen, ...backing, path, String(size)]);
  const commands: string[] = [];
  for (let step = 0; step < 10; step += 1) {
    const offset = random.below(size / SECTOR - 1) * SECTOR;
    const length = Math.min(size - offset, (1 + random.below(random.pick([8, 300, 3000]))) * SECTOR);
    const write = `write -P ${1 + random.below(255)}`;
    const what = random.pick(['write -P 0', 'write -z', write, write, write]);
    commands.push('-c', `${what} ${offset} ${length}`);
  }
  qemuIo.expect(['-f', format, ...commands, path]);
}

/** A chain, the base first, of random sizes. */
function makeChain(
  directory: string,
  random: Random,
  { formats, layers }: { formats: string[]; layers: number },
): Made[] {
  const chain: Made[] = [];
  for (let index = 0; index < layers; index += 1) {
    const format = index === 0 ? random.pick(['raw', ...formats]) : random.pick(formats);
    const size = (1 + random.below(6 * 2048)) * SECTOR;
    const made = { path: join(directory, `layer${index}`), format, size };
    create(made, random, chain.at(-1) ?? null);
    chain.push(made);
  }
  return chain;
}

/** The disk as qemu-img reads it. */
function contents({ path, format }: Made): Buffer {
  const out = `${path}.contents`;
  qemuImg.expect(['convert', '-f', format, '-O', 'raw', path, out]);
  return readFileSync(out);
}

function assertClean(t: ExecutionContext, { path, format }: Made): void {
  if (format !== 'qcow2' && format !== 'qed') return;
  const { status, text, stderr } = qemuImg.run(['check', '-f', format, path]);
  t.is(status, 0, text + stderr);
}

for (let seed = 1; seed <= 7; seed += 1) {
  test(`commits random chains: overlay and base show what the overlay showed (seed ${seed})`, async (t) => {
    if (qemuImg.missing(t) || qemuIo.missing(t)) return;
    await withTmpDir(async (directory) => {
      const random = new Random(seed);
      const chain = makeChain(directory, random, { formats: ['qcow2', 'qcow2', 'qed'], layers: 2 + random.below(3) });
      const [base, top] = [chain[random.below(chain.length - 1)], chain[chain.length - 1]];
      t.log(chain.map(({ format, size }) => `${format} ${size}`).join(', '), base.path);
      const before = contents(top);
      const beyond = contents(base).subarray(before.length);
      const deeper = base !== chain[chain.length - 2];
      const { length } = readFileSync(top.path);
      await commit({
        image: { filename: top.path, format: top.format },
        ...(deeper || random.below(2) === 0 ? { base: base.path } : {}),
      });
      t.true(contents(base).equals(Buffer.concat([before, beyond])));
      t.true(contents(top).equals(before));
      for (const each of chain) assertClean(t, each);
      if (deeper) t.is(readFileSync(top.path).length, length);
    });
  });

  test(`rebases random chains: the disk stays what it was (seed ${seed})`, async (t) => {
    if (qemuImg.missing(t) || qemuIo.missing(t)) return;
    await withTmpDir(async (directory) => {
      const random = new Random(1000 + seed);
      const [old, other] = [join(directory, 'old'), join(directory, 'other')];
      mkdirSync(old);
      mkdirSync(other);
      const chain = makeChain(old, random, { formats: ['qcow2', 'qcow2', 'qed'], layers: 1 + random.below(3) });
      const others = makeChain(other, random, { formats: ['qcow2'], layers: 1 + random.below(2) });
      const top = chain[chain.length - 1];
      if (top.format === 'raw') create(Object.assign(top, { format: 'qcow2' }), random, null);
      t.log(chain.map(({ format, size }) => `${format} ${size}`).join(', '), others[0].size);
      const before = contents(top);
      // Another chain, nothing, a layer of its own, and back: each as its own step.
      const steps = [others.at(-1), null, others[0], chain.length > 2 ? chain[0] : null, others.at(-1)];
      for (const below of steps) {
        const backing = below ? { filename: below.path, format: below.format } : null;
        await rebase({ image: { filename: top.path, format: top.format }, backing });
        t.true(contents(top).equals(before), below?.path ?? 'none');
        assertClean(t, top);
        // Nothing is left of the old backing files.
        const info = JSON.parse(qemuImg.expect(['info', '--output=json', '-f', top.format, top.path]));
        t.is(info['backing-filename'], below?.path);
      }
    });
  });
}

test('rebase writes only the clusters that differ, and none where both chains share the layer', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const at = (name: string) => join(directory, name);
    qemuImg.expect(['create', '-q', '-f', 'qcow2', at('base'), '4M']);
    qemuIo.expect(['-f', 'qcow2', '-c', 'write -P 1 0 4M', at('base')]);
    qemuImg.expect(['create', '-q', '-f', 'qcow2', '-b', at('base'), '-F', 'qcow2', at('middle')]);
    qemuIo.expect(['-f', 'qcow2', '-c', 'write -P 1 64k 64k', '-c', 'write -P 2 256k 1k', at('middle')]);
    qemuImg.expect(['create', '-q', '-f', 'qcow2', '-b', at('middle'), '-F', 'qcow2', at('top')]);
    const image = { filename: at('top'), format: 'qcow2' };
    const { written } = await rebase({ image, backing: { filename: at('base'), format: 'qcow2' } });
    t.is(written, 65536);
    const map = JSON.parse(qemuImg.expect(['map', '--output=json', at('top')])) as { start: number; depth: number }[];
    t.deepEqual(
      map.filter(({ depth }) => depth === 0).map(({ start }) => start),
      [256 * 1024],
    );
  });
});

test('commit grows a base that is shorter, and empties a qcow2 image to the size of a new one', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const at = (name: string) => join(directory, name);
    const twin = (name: string) => at(`twin-${name}`);
    qemuImg.expect(['create', '-q', '-f', 'raw', at('base'), '1M']);
    qemuImg.expect(['create', '-q', '-f', 'qcow2', '-b', 'base', '-F', 'raw', at('top'), '40M']);
    qemuIo.expect(['-f', 'qcow2', '-c', 'write -P 1 500k 37M', at('top')]);
    copyFileSync(at('top'), twin('top'));
    await commit({ image: { filename: at('top') } });
    const ours = { top: readFileSync(at('top')).length, base: readFileSync(at('base')) };
    renameSync(twin('top'), at('top'));
    qemuImg.expect(['create', '-q', '-f', 'raw', at('base'), '1M']);
    qemuImg.expect(['commit', '-q', '-f', 'qcow2', at('top')]);
    t.is(ours.top, readFileSync(at('top')).length);
    t.true(ours.base.equals(readFileSync(at('base'))));
  });
});

test('commit leaves snapshots, and what they hold', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const at = (name: string) => join(directory, name);
    writeFileSync(at('base'), pattern(1024 * 1024, 1));
    qemuImg.expect(['create', '-q', '-f', 'qcow2', '-b', 'base', '-F', 'raw', at('top')]);
    qemuIo.expect(['-f', 'qcow2', '-c', 'write -P 1 0 128k', at('top')]);
    qemuImg.expect(['snapshot', '-c', 'first', at('top')]);
    qemuIo.expect(['-f', 'qcow2', '-c', 'write -P 2 64k 128k', at('top')]);
    const snapshot = () => {
      qemuImg.expect(['convert', '-l', 'first', '-O', 'raw', at('top'), at('out')]);
      return readFileSync(at('out')).subarray(0, 128 * 1024);
    };
    const before = snapshot();
    await commit({ image: { filename: at('top') } });
    qemuImg.expect(['check', at('top')]);
    t.true(snapshot().equals(before));
    t.is(JSON.parse(qemuImg.expect(['map', '--output=json', at('top')]))[0].depth, 1);
  });
});

test('commits VMDK images, whose parent then counts as the one that they were made upon', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const at = (name: string) => join(directory, name);
    qemuImg.expect(['create', '-q', '-f', 'vmdk', at('base'), '2M']);
    for (const [below, name] of [
      ['base', 'middle'],
      ['middle', 'top'],
    ]) {
      qemuImg.expect(['create', '-q', '-f', 'vmdk', '-b', at(below), '-F', 'vmdk', at(name)]);
    }
    qemuIo.expect(['-f', 'vmdk', '-c', 'write -P 7 64k 300k', at('top')]);
    const top = { path: at('top'), format: 'vmdk', size: 0 };
    const before = contents(top);
    // Each opens only where the parent's content ID is the one that is noted.
    await commit({ image: { filename: at('top') }, base: at('base') });
    await commit({ image: { filename: at('top') } });
    await commit({ image: { filename: at('middle') } });
    for (const name of ['top', 'middle', 'base']) t.true(contents({ ...top, path: at(name) }).equals(before), name);
  });
});

test('what cannot be rebased is refused before anything is written', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const at = (name: string) => join(directory, name);
    writeFileSync(at('raw'), pattern(1024 * 1024, 3));
    const backing = { filename: at('raw'), format: 'raw' };
    const refused = async (name: string, options: Partial<Parameters<typeof rebase>[0]>, message: RegExp) => {
      const before = readFileSync(at(name));
      await t.throwsAsync(rebase({ image: { filename: at(name) }, backing, ...options }), {
        instanceOf: ImageError,
        message,
      });
      t.true(readFileSync(at(name)).equals(before), name);
    };
    for (const format of ['qcow', 'vmdk']) {
      qemuImg.expect(['create', '-q', '-f', format, at(`below-${format}`), '1M']);
      qemuImg.expect(['create', '-q', '-f', format, '-b', at(`below-${format}`), '-F', format, at(format)]);
    }
    for (const format of ['vdi', 'vpc', 'vhdx', 'parallels']) {
      qemuImg.expect(['create', '-q', '-f', format, at(format), '1M']);
    }
    for (const format of ['qcow', 'vmdk', 'vdi', 'vpc', 'vhdx', 'parallels']) {
      await refused(format, {}, /^Could not change the backing file to '.*raw': Operation not supported$/);
    }
    qemuImg.expect(['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=512', at('qcow2'), '1M']);
    await refused('qcow2', { backing: { filename: at('raw'), format: null } }, /: backing format must be specified$/);
    await refused('qcow2', { backing: { filename: at('raw'), format: 'foo' } }, /^Invalid format name: 'foo'$/);
    const missing = { filename: 'missing', format: 'raw' };
    await refused('qcow2', { backing: missing }, /^Could not open new backing file 'missing': .*No such file/);
    const long = { filename: 'x'.repeat(600), format: 'raw' };
    await refused('qcow2', { backing: long, unsafe: true }, /: No space left in the file header$/);
    const tooLong = { filename: 'x'.repeat(1100), format: 'raw' };
    await refused('qcow2', { backing: tooLong, unsafe: true }, /: Invalid argument$/);
    const itself = { filename: at('qcow2'), format: 'qcow2' };
    await refused('qcow2', { backing: itself }, /: Failed to get shared "write" lock\n/);
    await refused('qcow2', { backing: itself, forceShare: true }, /its own backing file$/);
  });
});
