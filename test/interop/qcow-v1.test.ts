import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { createImage } from '../../lib/formats/create.ts';
import { convert } from '../../lib/index.ts';
import { mapLines, qemuMap, readAll, withImage } from '../sources/oracle.ts';
import { pattern, Random } from '../support/model.ts';
import { bundleProgram, type Program } from '../support/program.ts';
import { sparseDisk } from '../support/sparse-disk.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { writeBothEnds } from './both-ways.ts';
import { sameOpening } from './same-opening.ts';
import { patched, sameAsQemu, sameReading } from './same-words.ts';
import { liveTogether } from './shared-life.ts';

const qemuImg = tool('qemu-img');
const qemuIo = tool('qemu-io');
const KIB = 1024;
const CLUSTER_BITS = 32;
const L2_BITS = 33;

let program: Program;
test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program?.remove());

/** `convert -c -O qcow` of qemu-img 7.2 makes the image and then ends with this exit code, without a word. */
const COMPRESSED_STATUS = 1;

async function sameMap(t: ExecutionContext, path: string): Promise<void> {
  await withImage(path, async ({ chain }) => t.deepEqual(await mapLines(chain), qemuMap([path])));
}

test('new images are those of qemu-img to the byte', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir((directory) => {
    const [theirs, ours, base] = ['theirs', 'ours', 'base.raw'].map((name) => join(directory, name));
    writeFileSync(base, pattern(100 * KIB, 1));
    const over = ['-b', base, '-F', 'raw'];
    const lines = [['1'], ['1234567'], ['3T'], [...over, '3M'], ['-u', ...over, '2G']];
    for (const line of lines) {
      const args = ['-q', '-f', 'qcow', ...line.filter((word) => /^-|raw$/.test(word))];
      const size = line.filter((word) => /^\d/.test(word));
      qemuImg.expect(['create', ...args, theirs, ...size]);
      t.is(program.run(['create', ...args, ours, ...size]).stderr, '');
      t.true(readFileSync(ours).equals(readFileSync(theirs)), line.join(' '));
      // It takes qemu-img minutes to look at every cluster of the large ones.
      if (size[0] === '3M') sameReading(t, program, ours);
      sameAsQemu(t, program, 'info --backing-chain {}', ours);
    }
  });
});

test('images that QEMU and we write in turns stay sound, whatever their clusters and tables', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const size = 2048 * KIB;
    for (const [clusterBits, l2Bits] of [
      [9, 6],
      [12, 9],
      [16, 13],
      [10, 13],
      [16, 6],
    ]) {
      const path = join(directory, `image-${clusterBits}-${l2Bits}`);
      await (await createImage({ filename: path, format: 'qcow', size })).close();
      const bytes = readFileSync(path);
      // The new image has a sector of L1 table, which is enough for the smallest of these.
      bytes[CLUSTER_BITS] = clusterBits;
      bytes[L2_BITS] = l2Bits;
      writeFileSync(path, bytes);
      const random = new Random(clusterBits);
      const life = { path, format: 'qcow', model: Buffer.alloc(size), random, longest: 100_000 };
      await t.notThrowsAsync(liveTogether(life, 2), `${clusterBits} ${l2Bits}`);
      await sameMap(t, path);
    }
  });
});

for (const below of [90_112, 300_032, 1_000_448]) {
  test(`overlays over ${below} bytes that QEMU and we write in turns stay sound`, async (t) => {
    if (qemuImg.missing(t) || qemuIo.missing(t)) return;
    await withTmpDir(async (directory) => {
      const [base, path] = [join(directory, 'base'), join(directory, 'image')];
      const size = 700_416;
      writeFileSync(`${base}.raw`, pattern(below, 3));
      qemuImg.expect(['convert', '-O', 'qcow2', `${base}.raw`, base]);
      const backing = { filename: base, format: 'qcow2' };
      await (await createImage({ filename: path, format: 'qcow', size, backing })).close();
      const model = Buffer.alloc(size);
      pattern(below, 3).copy(model);
      const life = { path, format: 'qcow', model, random: new Random(below), longest: 60_000 };
      await t.notThrowsAsync(liveTogether(life, 2));
      sameReading(t, program, path);
      // Who writes without the backing file must not take what shines through for zeros.
      sameAsQemu(t, program, 'info --backing-chain --output=json {}', path);
    });
  });
}

test('disks of random contents are converted and compressed, both ways', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const [raw, ours, theirs, back] = ['raw', 'ours', 'theirs', 'back'].map((name) => join(directory, name));
    for (const [seed, compress] of [
      [1, false],
      [2, true],
      [3, true],
    ] as const) {
      const disk = sparseDisk(3000 * KIB + seed * 512, seed);
      writeFileSync(raw, disk);
      await convert({ inputs: [{ filename: raw }], output: { filename: ours }, outputFormat: 'qcow', compress });
      const { status } = qemuImg.run(['convert', ...(compress ? ['-c'] : []), '-O', 'qcow', raw, theirs]);
      t.is(status, compress ? COMPRESSED_STATUS : 0);
      qemuImg.expect(['compare', '-f', 'raw', raw, ours]);
      // Nothing that is zero takes space, and compressed clusters lie as close as theirs or closer.
      t.true(readFileSync(ours).length <= readFileSync(theirs).length);
      for (const from of [ours, theirs]) {
        await convert({ inputs: [{ filename: from }], output: { filename: back }, outputFormat: 'raw' });
        t.true(readFileSync(back).equals(disk), from);
        await sameMap(t, from);
      }
      sameAsQemu(t, program, 'map {}', ours);
    }
  });
});

test('compressed images can be written to by QEMU, and those of QEMU by us', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const [raw, path] = [join(directory, 'raw'), join(directory, 'image')];
    const disk = sparseDisk(1500 * KIB, 8);
    writeFileSync(raw, disk);
    for (const maker of ['ours', 'theirs']) {
      const args = ['convert', '-c', '-O', 'qcow', raw, path];
      if (maker === 'ours') t.is(program.run(args).status, 0);
      else qemuImg.run(args);
      const life = { path, format: 'qcow', model: Buffer.from(disk), random: new Random(5), longest: 50_000 };
      await t.notThrowsAsync(liveTogether(life, 2), maker);
    }
  });
});

test('disks past 2 TiB are written at both ends', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await writeBothEnds({ format: 'qcow', size: 5 * 2 ** 40 }, (path) => sameAsQemu(t, program, 'info {}', path));
});

test('the backing file is probed, for the header does not name its format', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const [base, path] = [join(directory, 'base'), join(directory, 'image')];
    // Made as an overlay of raw bytes, which happen to be a qcow2 image: QEMU, too, takes them for one later.
    qemuImg.expect(['create', '-q', '-f', 'qcow2', base, '1M']);
    await (
      await createImage({ filename: path, format: 'qcow', size: null, backing: { filename: base, format: 'raw' } })
    ).close();
    await withImage(path, async ({ chain, backing }) => {
      t.is(backing?.driver.name, 'qcow2');
      t.true((await readAll(chain)).every((byte) => byte === 0));
    });
    sameReading(t, program, path);
    sameAsQemu(t, program, 'info --backing-chain {}', path);
  });
});

test('headers that cannot be are refused in the words of qemu-img', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const path = join(directory, 'image');
    qemuImg.expect(['create', '-q', '-f', 'qcow', path, '3M']);
    const bytes = readFileSync(path);
    const fields: [number, 4 | 8, bigint][] = [
      [0, 4, 1n],
      [4, 4, 0n],
      [4, 4, 2n],
      [4, 4, 3n],
      [4, 4, 4n],
      [24, 8, 0n],
      [24, 8, 1n],
      [24, 8, 2n],
      [24, 8, 1000n],
      [24, 8, 3n << 50n],
      [24, 8, (1n << 64n) - 1n],
      [32, 4, 0x0809_0000n],
      [32, 4, 0x1109_0000n],
      [32, 4, 0x1009_0000n],
      [32, 4, 0x0c05_0000n],
      [32, 4, 0x0c0e_0000n],
      [32, 4, 0x0c0d_ffffn],
      [36, 4, 2n],
      [36, 4, 0xffff_ffffn],
    ];
    for (const field of fields) {
      writeFileSync(path, patched(bytes, field, 'big'));
      await sameOpening(t, 'qcow', path, String(field));
    }
    for (const length of [0, 3, 4, 20, 47, 48, 55]) {
      writeFileSync(path, bytes.subarray(0, length));
      await sameOpening(t, 'qcow', path, `cut off at ${length}`);
    }
    const named = (offset: bigint, length: bigint) =>
      patched(patched(bytes, [8, 8, offset], 'big'), [16, 4, length], 'big');
    for (const [offset, length] of [
      [48n, 0n],
      [0n, 10n],
      [56n, 5n],
      [4000n, 10n],
      [48n, 1024n],
    ]) {
      writeFileSync(path, named(offset, length));
      await sameOpening(t, 'qcow', path, `a name of ${length} bytes at ${offset}`);
    }
  });
});

test('encrypted images are described and, without their key, refused as qemu-img does it', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir((directory) => {
    const [path, fresh] = [join(directory, 'image'), join(directory, 'fresh')];
    const secret = ['--object', 'secret,id=s,data=abc', '-o', 'encrypt.format=aes,encrypt.key-secret=s'];
    qemuImg.expect(['create', '-q', '-f', 'qcow', ...secret, path, '1M']);
    sameAsQemu(t, program, 'info {}', path);
    sameAsQemu(t, program, 'info --output=json {}', path);
    sameAsQemu(t, program, 'map {}', path);
    sameAsQemu(t, program, 'convert -n -O qcow {} {}', path);
    for (const options of ['encryption=on', 'encrypt.format=aes', 'encrypt.key-secret=s']) {
      sameAsQemu(t, program, `create -q -f qcow -o ${options} ${fresh} 1M`, path);
    }
    sameAsQemu(t, program, `create -f qcow -o encryption=on,encrypt.format=aes ${fresh} 1M`, path);
    sameAsQemu(t, program, `create -f qcow -o encryption=off ${fresh} 1M`, path);
  });
});

test('what the format cannot do is refused in the words of qemu-img', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir((directory) => {
    const [path, fresh] = [join(directory, 'image'), join(directory, 'fresh')];
    qemuImg.expect(['create', '-q', '-f', 'qcow', path, '1M']);
    for (const line of [
      'create -f qcow -o help {}',
      'create -f qcow -o help',
      `create -f qcow ${fresh} 0`,
      `create -f qcow -b {} -F foo ${fresh}`,
      `create -f qcow -u -b nope -F raw ${fresh}`,
      `create -f qcow -b nope -F raw ${fresh}`,
      `create -f qcow -b {} -F qcow -o nocow=off,preallocation=full,encryption=off ${fresh}`,
      `create -f qcow -o preallocation=metadata ${fresh} 1M`,
      `create -f qcow -o preallocation=zz ${fresh} 1M`,
      `create -f qcow -o cluster_size=4k ${fresh} 1M`,
      'measure -O qcow {}',
    ]) {
      sameAsQemu(t, program, line, path);
    }
    // One of the oracle's hints lacks the end of its line.
    sameAsQemu(t, program, `create -f qcow -b {} ${fresh}`, path, /\n$/);
  });
});
