import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { createImage } from '../../lib/formats/create.ts';
import { pattern, Random } from '../support/model.ts';
import { asOldKind, BITMAP_FEATURE, bitmapData, feature, withExtension } from '../support/parallels-images.ts';
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

let program: Program;
test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program?.remove());

const OPTION_SETS: readonly Readonly<Record<string, string>>[] = [
  {},
  { cluster_size: '512' },
  { cluster_size: '1000' },
  { cluster_size: '32256' },
  { cluster_size: '262144' },
];

test('new images are those of qemu-img to the byte', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir((directory) => {
    const [theirs, ours] = [join(directory, 'theirs'), join(directory, 'ours')];
    for (const options of OPTION_SETS) {
      for (const size of ['0', '513', '12345678', '3T']) {
        // A BAT of gigabytes.
        if (size === '3T' && Number(options.cluster_size ?? MIB) < 100_000) continue;
        const args = [...optionWords(options), '-q', '-f', 'parallels'];
        qemuImg.expect(['create', ...args, theirs, size]);
        t.is(program.run(['create', ...args, ours, size]).stderr, '');
        t.true(readFileSync(ours).equals(readFileSync(theirs)), `${args.join(' ')} ${size}`);
      }
    }
  });
});

for (const [index, options] of OPTION_SETS.entries()) {
  test(`images that QEMU and we write in turns stay sound: ${JSON.stringify(options)}`, async (t) => {
    if (qemuImg.missing(t) || qemuIo.missing(t)) return;
    await withTmpDir(async (directory) => {
      const path = join(directory, 'image');
      const size = (index === 0 ? 8 : 3) * MIB + 512 * (index + 1);
      await (await createImage({ filename: path, format: 'parallels', size, options })).close();
      const longest = index === 0 ? 3 * MIB : 256 * KIB;
      const life = { path, format: 'parallels', model: Buffer.alloc(size), random: new Random(index), longest };
      await t.notThrowsAsync(liveTogether(life, 2));
      sameReading(t, program, path);
    });
  });
}

for (const dataSector of [null, 0n, 3n]) {
  test(`images of the old kind are written in turns, with a data area at ${dataSector ?? 'a cluster'}`, async (t) => {
    if (qemuImg.missing(t) || qemuIo.missing(t)) return;
    await withTmpDir(async (directory) => {
      const path = join(directory, 'image');
      const size = 3 * MIB + 512;
      // 63 sectors a cluster, as old products had them.
      qemuImg.expect(['create', '-q', '-f', 'parallels', '-o', 'cluster_size=32256', path, String(size)]);
      const old = asOldKind(readFileSync(path));
      writeFileSync(path, dataSector === null ? old : patched(old, [48, 4, dataSector], 'little').subarray(0, 1536));
      const life = {
        path,
        format: 'parallels',
        model: Buffer.alloc(size),
        random: new Random(5),
        longest: 256 * KIB,
      };
      await t.notThrowsAsync(liveTogether(life, 2));
      t.is(readFileSync(path).toString('latin1', 0, 16), 'WithoutFreeSpace');
      sameReading(t, program, path);
    });
  });
}

test('disks of random contents are converted to images that qemu-img reads, and back', async (t) => {
  if (qemuImg.missing(t)) return;
  for (const [index, createOptions] of OPTION_SETS.slice(0, 3).entries()) {
    const disk = Buffer.concat([sparseDisk(2 * MIB + 512 * index, index), Buffer.alloc(3 * MIB), pattern(MIB, 3)]);
    await convertBothWays(t, { format: 'parallels', disk, createOptions }, (image) => {
      if (image.endsWith('theirs')) sameReading(t, program, image);
    });
  }
});

test('disks past 2 TiB are written at both ends', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await writeBothEnds({ format: 'parallels', size: 5 * 2 ** 40 }, (path) => {
    qemuImg.expect(['check', path]);
    // `qemu-img map` 7.2 ends with an assertion where a TiB is not allocated.
    sameAsQemu(t, program, 'info {}', path);
  });
});

/** An image of ten clusters, of which the fourth and the ninth are allocated. */
function tenClusters(path: string): Buffer {
  qemuImg.expect(['create', '-q', '-f', 'parallels', '-o', 'cluster_size=4k', path, '40k']);
  qemuIo.expect(['-f', 'parallels', '-c', 'write -P 1 12k 4k', '-c', 'write -P 2 33k 1k', path]);
  return readFileSync(path);
}

test('headers that cannot be, or are odd, are taken as qemu-img takes them, and in its words', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir((directory) => {
    const path = join(directory, 'image');
    const bytes = tenClusters(path);
    const fields: [number, 4 | 8, bigint][] = [
      [0, 4, 0n],
      [16, 4, 1n],
      [28, 4, 0n],
      [28, 4, 0x3f_e010n],
      [28, 4, 0xffff_ffffn],
      [32, 4, 0x2000_0000n],
      [32, 4, 0xffff_ffffn],
      [32, 4, 4n],
      [36, 8, 10n],
      [36, 8, 100n],
      [44, 4, 0x746f_6e59n],
      [44, 4, 0x1234_5678n],
      [48, 4, 0n],
      [48, 4, 1000n],
      [52, 4, 0xffff_ffffn],
      [56, 8, 1n],
      [64 + 3 * 4, 4, 3000n],
    ];
    for (const field of fields) {
      writeFileSync(path, patched(bytes, field, 'little'));
      sameAsQemu(t, program, 'info --output=json -f parallels {}', path);
      sameAsQemu(t, program, 'map --output=json {}', path);
    }
    for (const length of [0, 63, 64, 100]) {
      writeFileSync(path, bytes.subarray(0, length));
      sameAsQemu(t, program, 'info -f parallels {}', path);
    }
  });
});

test('an image that is in use is read, and not written', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir((directory) => {
    const [path, raw] = [join(directory, 'image'), join(directory, 'raw')];
    const bytes = patched(tenClusters(path), [44, 4, 0x746f_6e59n], 'little');
    writeFileSync(path, bytes);
    writeFileSync(raw, pattern(40 * KIB, 1));
    sameAsQemu(t, program, `convert -n -f raw -O parallels ${raw} {}`, path);
    t.true(readFileSync(path).equals(bytes));
  });
});

test('a Format Extension is checked as qemu-img checks it', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir((directory) => {
    const path = join(directory, 'image');
    const image = tenClusters(path);
    const sectors = 80;
    const bitmap = (recipe = {}, flags = 0n) => feature(BITMAP_FEATURE, bitmapData({ sectors, ...recipe }), { flags });
    const extensions: Buffer[][] = [
      [],
      [bitmap()],
      [bitmap({ clusters: [0n] })],
      [bitmap({ clusters: [50_000n] })],
      [bitmap(), bitmap({ id: 8, granularity: 16 })],
      [bitmap(), bitmap({ granularity: 16 })],
      [bitmap({ sectors: 81 })],
      [bitmap({ clusters: [1n, 1n] })],
      [bitmap({ clusters: [] })],
      [bitmap({ l1Entries: 100 })],
      [bitmap({}, 1n)],
      [bitmap({}, 2n)],
      [feature(5n, Buffer.alloc(8))],
      [feature(5n, Buffer.alloc(8), { flags: 1n })],
      [feature(BITMAP_FEATURE, Buffer.alloc(3))],
      [feature(BITMAP_FEATURE, Buffer.alloc(100), { dataSize: 5000 })],
      [feature(0n, Buffer.alloc(0), { flags: 1n })],
    ];
    for (const features of extensions) {
      writeFileSync(path, withExtension(image, features));
      sameAsQemu(t, program, 'info --output=json {}', path);
    }
    writeFileSync(path, patched(withExtension(image, [bitmap()]), [image.length + 100, 4, 1n], 'little'));
    sameAsQemu(t, program, 'info {}', path);
  });
});

test('what is said while images are made, and of what the format cannot do, is what qemu-img says', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir((directory) => {
    const [path, fresh] = [join(directory, 'image'), join(directory, 'fresh')];
    qemuImg.expect(['create', '-q', '-f', 'parallels', path, '1M']);
    for (const line of [
      'create -f parallels -o help',
      'create -f parallels -o help {}',
      `create -f parallels ${fresh} 10M`,
      `create -f parallels -o cluster_size=1000 ${fresh} 10M`,
      `create -f parallels -o preallocation=full,nocow=off,cluster_size=64k ${fresh} 10M`,
      `create -f parallels -o cluster_size=0 ${fresh} 10M`,
      `create -f parallels -o cluster_size=2G ${fresh} 10M`,
      `create -f parallels -o cluster_size=4G ${fresh} 10M`,
      `create -f parallels ${fresh} 4P`,
      `create -f parallels -o preallocation=metadata ${fresh} 1M`,
      `create -f parallels -o preallocation=zz ${fresh} 1M`,
      `create -f parallels -o table_size=1 ${fresh} 1M`,
      `create -f parallels -b {} -F parallels ${fresh}`,
      `convert -c -O parallels {} ${fresh}`,
      'measure -O parallels --size 1M',
      `map --image-opts driver=parallels,file.filename=${path},prealloc-size=1M,prealloc-mode=falloc`,
      `map --image-opts driver=parallels,file.filename=${path},prealloc-size=foo`,
      `map --image-opts driver=parallels,file.filename=${path},prealloc-mode=full`,
      `map --image-opts driver=parallels,file.filename=${path},lazy=on`,
    ]) {
      sameAsQemu(t, program, line, path);
    }
  });
});
