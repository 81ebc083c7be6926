import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { createImage } from '../../lib/formats/create.ts';
import { convert } from '../../lib/index.ts';
import { mapLines, qemuMap, withImage } from '../sources/oracle.ts';
import { Random } from '../support/model.ts';
import { bundleProgram, type Program } from '../support/program.ts';
import { sparseDisk } from '../support/sparse-disk.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { convertBothWays, writeBothEnds } from './both-ways.ts';
import { sameOpening } from './same-opening.ts';
import { patched, sameAsQemu, sameReading } from './same-words.ts';
import { liveTogether } from './shared-life.ts';

const qemuImg = tool('qemu-img');
const qemuIo = tool('qemu-io');
const MIB = 1024 * 1024;
const UUIDS = { start: 0x188, end: 0x1a8 };
const BLOCK_MAP = 512;
const DISK_SIZE = 0x170;
const ALLOCATED = 0x184;
const UNALLOCATED = 0xffff_ffffn;
const DISCARDED = 0xffff_fffen;

let program: Program;
test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program?.remove());

const SIZES = ['0', '1', '513', '1234567', '5M', '3T'];

for (const options of ['static=off', 'static=on']) {
  test(`new images with ${options} are those of qemu-img to the byte, but for their UUIDs`, async (t) => {
    if (qemuImg.missing(t)) return;
    await withTmpDir((directory) => {
      const [theirs, ours] = [join(directory, 'theirs'), join(directory, 'ours')];
      // A static image of 3 TiB is too much to be read here.
      for (const size of SIZES.filter((each) => options === 'static=off' || each !== '3T')) {
        qemuImg.expect(['create', '-q', '-f', 'vdi', '-o', options, theirs, size]);
        t.is(program.run(['create', '-q', '-f', 'vdi', '-o', options, ours, size]).stderr, '');
        const [expected, found] = [theirs, ours].map((path) => readFileSync(path));
        t.notDeepEqual(found.subarray(UUIDS.start, UUIDS.end), expected.subarray(UUIDS.start, UUIDS.end));
        for (const bytes of [expected, found]) bytes.fill(0, UUIDS.start, UUIDS.end);
        t.true(found.equals(expected), size);
        qemuImg.expect(['check', '-f', 'vdi', ours]);
      }
      sameReading(t, program, ours);
    });
  });
}

async function sameMap(t: ExecutionContext, path: string): Promise<void> {
  await withImage(path, async ({ chain }) => t.deepEqual(await mapLines(chain), qemuMap([path])));
}

const OPTION_SETS: readonly Readonly<Record<string, string>>[] = [{}, { static: 'on' }];

for (const [index, options] of OPTION_SETS.entries()) {
  test(`images that QEMU and we write in turns stay sound: ${JSON.stringify(options)}`, async (t) => {
    if (qemuImg.missing(t) || qemuIo.missing(t)) return;
    await withTmpDir(async (directory) => {
      for (const size of [7 * MIB + 512, 12 * MIB]) {
        const path = join(directory, `image-${size}`);
        await (await createImage({ filename: path, format: 'vdi', size, options })).close();
        const life = { path, format: 'vdi', model: Buffer.alloc(size), random: new Random(index), longest: 3 * MIB };
        await t.notThrowsAsync(liveTogether(life, 2));
        sameReading(t, program, path);
      }
    });
  });
}

test('disks of random contents are converted to the same image, and back', async (t) => {
  if (qemuImg.missing(t)) return;
  for (const seed of [1, 2, 3]) {
    // Runs of some blocks, so that some blocks are missing.
    const random = new Random(seed);
    const disk = Buffer.alloc(20 * MIB + 512 * random.below(2000));
    for (let round = 0; round < 4; round += 1) sparseDisk(MIB, seed + round).copy(disk, random.below(disk.length));
    const createOptions = OPTION_SETS[seed === 3 ? 1 : 0];
    await convertBothWays(t, { format: 'vdi', disk, createOptions }, (image) => sameMap(t, image));
  }
});

test('disks past 2 TiB are written at both ends', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await writeBothEnds({ format: 'vdi', size: 5 * 2 ** 40 }, async (path) => {
    qemuImg.expect(['check', path]);
    await sameMap(t, path);
  });
});

/** An image of five blocks, of which the third and the fourth are allocated. */
function fiveBlocks(path: string): Buffer {
  qemuImg.expect(['create', '-q', '-f', 'vdi', path, '5M']);
  qemuIo.expect(['-f', 'vdi', '-c', 'write -P 1 2M 4k', '-c', 'write -P 2 3M 4k', path]);
  return readFileSync(path);
}

test('discarded blocks, shared blocks, wrong counts and odd sizes read as qemu-img reads them', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const path = join(directory, 'image');
    const bytes = fiveBlocks(path);
    const entry = (block: number, value: bigint) => [BLOCK_MAP + block * 4, 4, value] as const;
    const changes: (readonly [number, 4 | 8, bigint])[][] = [
      [entry(0, DISCARDED), entry(2, DISCARDED), entry(4, DISCARDED)],
      [entry(0, 1n), entry(2, UNALLOCATED)],
      [entry(0, 0n), entry(1, 0n)],
      [[ALLOCATED, 4, 0n]],
      [[ALLOCATED, 4, 0xffff_ffffn]],
      [[DISK_SIZE, 8, BigInt(4 * MIB - 300)]],
      [[DISK_SIZE, 8, BigInt(3 * MIB + 512)]],
      [[0x4c, 4, 2n]],
      [[0x4c, 4, 4n]],
    ];
    for (const fields of changes) {
      writeFileSync(
        path,
        fields.reduce((image, field) => patched(image, field, 'little'), bytes),
      );
      await sameMap(t, path);
      const [ours, theirs] = [join(directory, 'ours'), join(directory, 'theirs')];
      await convert({ inputs: [{ filename: path }], output: { filename: ours }, outputFormat: 'raw' });
      qemuImg.expect(['convert', '-O', 'raw', path, theirs]);
      t.true(readFileSync(ours).equals(readFileSync(theirs)), String(fields));
    }
  });
});

test('headers that cannot be are refused in the words of qemu-img', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const path = join(directory, 'image');
    const bytes = fiveBlocks(path);
    const fields: [number, 4 | 8, bigint][] = [
      [0x40, 4, 1n],
      [0x44, 4, 0x1_0000n],
      [0x44, 4, 9n],
      [0x48, 4, 7n],
      [0x154, 4, 0x204n],
      [0x158, 4, 0x401n],
      [0x168, 4, 0n],
      [0x168, 4, 4096n],
      [0x170, 8, 0n],
      [0x170, 8, 6n * BigInt(MIB)],
      [0x170, 8, 1n << 60n],
      [0x170, 8, (1n << 64n) - 1n],
      [0x178, 4, 0n],
      [0x178, 4, 0x20_0000n],
      [0x180, 4, 4n],
      [0x180, 4, 0xffff_ffffn],
      [0x1a8, 4, 1n],
      [0x1b4, 4, 1n],
      [0x1b8, 8, 1n << 63n],
    ];
    for (const field of fields) {
      writeFileSync(path, patched(bytes, field, 'little'));
      await sameOpening(t, 'vdi', path, String(field));
    }
    for (const length of [0, 100, 400, 511, 512]) {
      writeFileSync(path, bytes.subarray(0, length));
      await sameOpening(t, 'vdi', path, `cut off at ${length}`);
    }
  });
});

test('what the format cannot do is refused in the words of qemu-img', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir((directory) => {
    const [path, fresh] = [join(directory, 'image'), join(directory, 'fresh')];
    qemuImg.expect(['create', '-q', '-f', 'vdi', path, '1M']);
    for (const line of [
      'create -f vdi -o help {}',
      'create -f vdi -o help',
      `create -f vdi ${fresh} 1P`,
      `create -f vdi -o static=on ${fresh} 600T`,
      `create -f vdi -o static=maybe ${fresh} 1M`,
      `create -f vdi -o preallocation=metadata ${fresh} 1M`,
      `create -f vdi -o preallocation=zz ${fresh} 1M`,
      `create -f vdi -o preallocation=full,static=on,nocow=off,size=1M ${fresh}`,
      `create -f vdi -o block_size=2M ${fresh} 1M`,
      `create -f vdi -b {} -F vdi ${fresh}`,
      `create -f vdi -F vdi ${fresh} 1M`,
      `create -f raw -F vdi ${fresh} 1M`,
      `create -f vdi -o backing_fmt=vdi ${fresh} 1M`,
      `convert -c -O vdi {} ${fresh}`,
      'measure -O vdi {}',
    ]) {
      sameAsQemu(t, program, line, path);
    }
  });
});
