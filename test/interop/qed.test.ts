import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { createImage } from '../../lib/formats/create.ts';
import { openTarget } from '../../lib/formats/open-target.ts';
import { pattern, Random } from '../support/model.ts';
import { bundleProgram, type Program } from '../support/program.ts';
import { sparseDisk } from '../support/sparse-disk.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { convertBothWays, optionWords, writeBothEnds } from './both-ways.ts';
import { patched, sameAsQemu, sameReading } from './same-words.ts';
import { liveTogether } from './shared-life.ts';

const qemuImg = tool('qemu-img');
const qemuIo = tool('qemu-io');
const KIB = 1024;
const MIB = 1024 * KIB;
/** Bytes that are allocated differ: QEMU writes the zeros of its L1 table. */
const DISK_SIZE = /^disk size: .*\n|^ *"actual-size": .*\n/gm;

let program: Program;
test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program?.remove());

// Not `table_size=1`: qemu-img makes such images, and can't open them.
const OPTION_SETS: readonly Readonly<Record<string, string>>[] = [
  {},
  { cluster_size: '4096', table_size: '2' },
  { cluster_size: '8192', table_size: '16' },
  { cluster_size: '1048576', table_size: '2' },
];

test('new images are those of qemu-img to the byte', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir((directory) => {
    const [theirs, ours] = [join(directory, 'theirs'), join(directory, 'ours')];
    for (const options of OPTION_SETS) {
      for (const size of ['0', '1234567', '3T']) {
        const args = [...optionWords(options), '-q', '-f', 'qed'];
        if (size === '3T' && options.table_size !== undefined) continue;
        qemuImg.expect(['create', ...args, theirs, size]);
        t.is(program.run(['create', ...args, ours, size]).stderr, '');
        t.true(readFileSync(ours).equals(readFileSync(theirs)), `${args.join(' ')} ${size}`);
      }
    }
    for (const format of ['raw', 'qcow2']) {
      const args = ['-q', '-f', 'qed', '-u', '-b', 'below', '-F', format];
      qemuImg.expect(['create', ...args, theirs, '10M']);
      t.is(program.run(['create', ...args, ours, '10M']).stderr, '');
      t.true(readFileSync(ours).equals(readFileSync(theirs)), format);
    }
  });
});

for (const [index, options] of OPTION_SETS.entries()) {
  test(`images that QEMU and we write in turns stay sound: ${JSON.stringify(options)}`, async (t) => {
    if (qemuImg.missing(t) || qemuIo.missing(t)) return;
    await withTmpDir(async (directory) => {
      const path = join(directory, 'image');
      const size = 5 * MIB + 512 * (index + 1);
      await (await createImage({ filename: path, format: 'qed', size, options })).close();
      const longest = index === 3 ? 2 * MIB : 256 * KIB;
      const life = { path, format: 'qed', model: Buffer.alloc(size), random: new Random(index), longest };
      await t.notThrowsAsync(liveTogether(life, 2));
      sameReading(t, program, path);
    });
  });
}

test('disks of random contents are converted to images that qemu-img reads, and back', async (t) => {
  if (qemuImg.missing(t)) return;
  for (const [index, createOptions] of OPTION_SETS.slice(0, 2).entries()) {
    const disk = Buffer.concat([sparseDisk(2 * MIB + 512 * index, index), Buffer.alloc(3 * MIB), pattern(MIB, 3)]);
    await convertBothWays(t, { format: 'qed', disk, createOptions }, (image) => sameReading(t, program, image));
  }
});

test('disks past 2 TiB are written at both ends', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await writeBothEnds({ format: 'qed', size: 64 * 2 ** 40 }, (path) => {
    qemuImg.expect(['check', path]);
    sameReading(t, program, path);
  });
});

test('chains of backing files are read and written like QEMU does', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const run = { cwd: directory };
    writeFileSync(join(directory, 'base'), sparseDisk(MIB + 512, 8));
    qemuImg.expect(['create', '-q', '-f', 'qed', '-b', 'base', '-F', 'raw', 'middle'], run);
    qemuIo.expect(['-f', 'qed', '-c', 'write -P 3 100k 50k', '-c', 'write -z 200k 300k', 'middle'], run);
    const [ours, theirs] = [join(directory, 'ours'), join(directory, 'theirs')];
    for (const [path, make] of [
      [ours, (args: string[]) => program.run(args, run).stderr],
      [theirs, (args: string[]) => qemuImg.run(args, run).stderr],
    ] as const) {
      t.is(make(['create', '-q', '-f', 'qed', '-b', 'middle', '-F', 'qed', path, '2M']), '');
    }
    qemuIo.expect(['-f', 'qed', '-c', 'write -P 5 220k 1k', '-c', 'write -z 1M 20k', theirs], run);
    const target = await openTarget(ours, { format: 'qed' });
    await target.write(220 * KIB, Buffer.alloc(KIB, 5));
    await target.zero(MIB, 20 * KIB);
    await target.close();
    qemuImg.expect(['compare', ours, theirs]);
    for (const path of [ours, theirs]) {
      qemuImg.expect(['check', path]);
      sameReading(t, program, path);
    }
    for (const line of ['info --backing-chain {}', 'info --backing-chain --output=json {}', 'compare {} middle']) {
      sameAsQemu(t, program, line, ours);
    }
  });
});

/** An image of 160 clusters with data, a zero range and a need-check bit. */
function crashed(path: string): Buffer {
  qemuImg.expect(['create', '-q', '-f', 'qed', path, '10M']);
  qemuIo.expect(['-f', 'qed', '-c', 'write -P 1 2M 200k', '-c', 'write -z 5M 1M', '-c', 'write -P 2 10000k 64k', path]);
  return patched(readFileSync(path), [16, 8, 2n], 'little');
}

test('an image that a crash has left is read as it is, and checked when it is opened for writing', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const [ours, theirs] = [join(directory, 'ours'), join(directory, 'theirs')];
    const bytes = crashed(theirs);
    const l2 = Number(bytes.readBigUInt64LE(64 * KIB));
    // A data cluster and, in another image, the L2 table past the end of the file.
    for (const place of [l2 + 33 * 8, 64 * KIB]) {
      const spoilt = patched(bytes, [place, 8, 0x4000_0000n], 'little');
      for (const path of [ours, theirs]) writeFileSync(path, spoilt);
      sameAsQemu(t, program, 'info --output=json {}', ours);
      sameAsQemu(t, program, 'info {}', ours);
      qemuIo.expect(['-f', 'qed', '-c', 'write -P 9 9M 64k', theirs]);
      const target = await openTarget(ours, { format: 'qed' });
      await target.write(9 * MIB, Buffer.alloc(64 * KIB, 9));
      await target.close();
      qemuImg.expect(['compare', ours, theirs]);
      t.is(readFileSync(ours).readBigUInt64LE(16), 0n);
      t.not(qemuImg.run(['check', ours]).status, 2);
      sameAsQemu(t, program, 'map --output=json {}', ours);
    }
  });
});

test('headers that cannot be are refused in the words of qemu-img', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir((directory) => {
    const path = join(directory, 'image');
    const bytes = crashed(path);
    const fields: [number, 4 | 8, bigint][] = [
      [0, 4, 0n],
      [4, 4, 2048n],
      [4, 4, 65537n],
      [4, 4, 1n << 27n],
      [8, 4, 3n],
      [8, 4, 32n],
      [8, 4, 0n],
      [12, 4, 0n],
      [12, 4, 2n],
      [12, 4, 0xffff_ffffn],
      [16, 8, 8n],
      [16, 8, 1n << 63n],
      [16, 8, 4n],
      [24, 8, 8n],
      [32, 8, 8n],
      [40, 8, 0n],
      [40, 8, 1000n],
      [40, 8, 1n << 40n],
      [40, 8, 1n << 63n],
      [48, 8, 1000n],
      [48, 8, 0n],
      [48, 8, 1n << 46n],
      [48, 8, (1n << 46n) + 512n],
      [48, 8, 1n << 63n],
    ];
    for (const field of fields) {
      writeFileSync(path, patched(bytes, field, 'little'));
      sameAsQemu(t, program, 'info --output=json -f qed {}', path);
    }
    for (const length of [0, 10, 63, 64, 65536, 300_000]) {
      writeFileSync(path, bytes.subarray(0, length));
      sameAsQemu(t, program, 'info -f qed {}', path, DISK_SIZE);
    }
  });
});

test('names of backing files are found where the header says, up to a length', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir((directory) => {
    const path = join(directory, 'image');
    qemuImg.expect(['create', '-q', '-f', 'qed', path, '10M']);
    const bytes = readFileSync(path);
    for (const [features, offset, length] of [
      [1, 64, 3],
      [5, 64, 3],
      [1, 64, 0],
      [1, 1000, 50],
      [1, 0, 10],
      [5, 64, 1024],
      [5, 64, 4096],
      [1, 65530, 10],
      [1, 0xffff_ffff, 0xffff_ffff],
      [4, 64, 3],
    ]) {
      const copy = Buffer.from(bytes);
      copy.fill('b', 64, 8192);
      copy.writeUInt8(0, 1020);
      for (const [at, value] of [
        [16, features],
        [56, offset],
        [60, length],
      ]) {
        copy.writeUInt32LE(value, at);
      }
      writeFileSync(path, copy);
      sameAsQemu(t, program, 'info {}', path);
      if (length < 1000) sameAsQemu(t, program, 'map {}', path);
    }
  });
});

test('what is said while images are made, and of what the format cannot do, is what qemu-img says', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir((directory) => {
    const [path, fresh] = [join(directory, 'image'), join(directory, 'fresh')];
    qemuImg.expect(['create', '-q', '-f', 'qed', path, '1M']);
    for (const line of [
      'create -f qed -o help',
      'create -f qed -o help {}',
      'convert -O qed -o help',
      `create -f qed ${fresh} 1M`,
      `create -f qed -o cluster_size=4k,table_size=1 ${fresh} 1M`,
      `create -f qed -o preallocation=falloc,nocow=off ${fresh} 1M`,
      `create -f qed -b {} -F qed ${fresh}`,
      `create -f qed -o backing_file={},backing_fmt=qed,table_size=2 ${fresh} 7M`,
      `create -f qed -o cluster_size=4095 ${fresh} 1M`,
      `create -f qed -o cluster_size=2k ${fresh} 1M`,
      `create -f qed -o cluster_size=128M ${fresh} 1M`,
      `create -f qed -o cluster_size=64M ${fresh} 1M`,
      `create -f qed -o cluster_size=foo ${fresh} 1M`,
      `create -f qed -o table_size=3 ${fresh} 1M`,
      `create -f qed -o table_size=32 ${fresh} 1M`,
      `create -f qed -o table_size=0 ${fresh} 1M`,
      `create -f qed -o table_size=-1 ${fresh} 1M`,
      `create -f qed ${fresh} 65T`,
      `create -f qed -o preallocation=metadata ${fresh} 1M`,
      `create -f qed -o preallocation=zz ${fresh} 1M`,
      `create -f qed -o compat=1.1 ${fresh} 1M`,
      `create -f qed -b nothing -F raw ${fresh}`,
      `convert -c -O qed {} ${fresh}`,
      'measure -O qed --size 1M',
      'map --image-opts driver=qed,file.filename={},lazy=on',
    ]) {
      sameAsQemu(t, program, line.replace('{},', `${path},`), path);
    }
  });
});
