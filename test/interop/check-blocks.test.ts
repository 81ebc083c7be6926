import { readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { checkSaid, type Patch, patched, qemuCheck, sameCheck } from '../support/check-like.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { makeVhdx } from '../support/vhdx.ts';

const qemuImg = tool('qemu-img');
const qemuIo = tool('qemu-io');

const MIB = 1024 * 1024;
const IN_USE = 0x746f_6e59;

interface Spoiled {
  patches?: Patch[];
  size?: number;
  /** What a repair leaves does not satisfy qemu-img, nor does what its own repair leaves. */
  stays?: boolean;
  /** The repair is ours: qemu-img's loses data, or leaves an image that is not clean. */
  ownRepair?: boolean;
  /** Guest bytes that are lost, whoever repairs: from, to. */
  lost?: [number, number];
}

/** Two tables at 0x10000 (L1) and 0x60000 (L2); data from 0x50000 on, and from 0xa0000. */
const QED: Record<string, Spoiled> = {
  'a sound image': {},
  'an image that asks for a check': { patches: [[8, 16, 2]] },
  'features that are to be dropped': { patches: [[8, 32, 5]] },
  'an L2 table in the middle of nowhere': { patches: [[8, 0x10008, 0x123]] },
  'an L2 table past the end of the file': { patches: [[8, 0x10010, 0xfff0000]] },
  'an L2 table in the place of data': { patches: [[8, 0x10008, 0x50000]], stays: true },
  'the L1 table as its own L2 table': { patches: [[8, 0x10000, 0x10000]], stays: true },
  'a cluster used twice': { patches: [[8, 0x60008, 0x50000]], stays: true },
  'a data cluster in the tables, and the need-check bit': {
    patches: [
      [8, 0x60008, 0x70000],
      [8, 16, 2],
    ],
    stays: true,
  },
  'a cluster past the end, an unaligned one, and one in the header': {
    patches: [
      [8, 0x60008, 0xfff0000],
      [8, 0x60010, 0x123],
      [8, 0x60018, 1 + 0x200],
    ],
  },
  'wrong clusters and one used twice': {
    patches: [
      [8, 0x60008, 0x123],
      [8, 0x60010, 0x50000],
    ],
    stays: true,
  },
  'a leak': { patches: [[8, 0x60000, 0]], stays: true, lost: [0, 65536] },
  'a file without its last clusters': { size: 0x210000, lost: [3 * MIB, 10 * MIB] },
  'a file with a cluster too many': { size: 0x240000, stays: true },
  'a file with half a cluster too many': { size: 0x232000 },
  'a file that ends within a cluster': { size: 0x22f000, ownRepair: true, lost: [9 * MIB + 0xf000, 9 * MIB + 0x10000] },
};

const VDI: Record<string, Spoiled> = {
  'a sound image': {},
  'a wrong count': { patches: [[4, 0x184, 2]] },
  'a block used twice': { patches: [[4, 0x200, 1]] },
  'a block that the image has no room for': { patches: [[4, 0x200, 10]] },
  'a discarded block': { patches: [[4, 0x204, 0xfffffffe]] },
  'all at once': {
    patches: [
      [4, 0x200, 50],
      [4, 0x204, 0],
      [4, 0x208, 0],
    ],
  },
  'a block map in the header': { patches: [[4, 0x154, 0]] },
  'a file without its last blocks': { size: MIB },
};

const PARALLELS: Record<string, Spoiled> = {
  'a sound image': {},
  'an image that was not closed': { patches: [[4, 0x2c, IN_USE]] },
  'a cluster past the end': { patches: [[4, 0x40, 100]], ownRepair: true, lost: [0, MIB] },
  'a cluster right behind the end': { patches: [[4, 0x40, 6]], ownRepair: true, lost: [0, MIB] },
  'a cluster at the end': { patches: [[4, 0x40, 5]], lost: [0, MIB] },
  'two clusters past the end of an image that was not closed and leaks': {
    patches: [
      [4, 0x40, 100],
      [4, 0x44, 100],
      [4, 0x2c, IN_USE],
    ],
    size: 6 * MIB,
    ownRepair: true,
    lost: [0, MIB],
  },
  'clusters used twice, which QEMU does not look for': { patches: [[4, 0x44, 2]], lost: [0, 4 * MIB] },
  'clusters in disorder': {
    patches: [
      [4, 0x40, 3],
      [4, 0x44, 1],
    ],
    lost: [0, 4 * MIB],
  },
  'space at the end': { size: 6 * MIB },
  'half a cluster at the end': { size: 5 * MIB + MIB / 2 },
  'a few bytes at the end of an image that was not closed': { patches: [[4, 0x2c, IN_USE]], size: 5 * MIB + 100 },
  'a file that ends within a cluster': { size: 0x4f0000 },
  'a BAT too short for the disk': { patches: [[4, 0x20, 5]], lost: [5 * MIB, 10 * MIB] },
};

/** The BAT lies at 2 MiB, the metadata at 3 MiB, blocks of 8 MiB from 8 MiB on. */
const VHDX: Record<string, Spoiled> = {
  'a sound image': {},
  'a block past the end': { patches: [[8, 0x200000, 0x10000006]] },
  'a block right behind the end': { patches: [[8, 0x200000, 0x1800006]] },
  'a block where the log and the tables are': { patches: [[8, 0x200000, 0x100006]] },
  'two blocks where the tables are': {
    patches: [
      [8, 0x200000, 0x100006],
      [8, 0x200008, 0x200006],
    ],
  },
  'blocks in one place, which QEMU does not look for': { patches: [[8, 0x200000, 0x1000006]] },
  'blocks that are not there, wherever they lie': { patches: [[8, 0x200000, 0x80000003]] },
  'a file without its last block': { size: 16 * MIB },
  'a file that ends behind the disk, and within its last block': { size: 23 * MIB },
  'a file that ends within a block': {
    patches: [
      [8, 0x200000, 0x1000006],
      [8, 0x200008, 0x1700006],
    ],
    size: 23 * MIB + 1,
  },
};

/** The grain table lies at 0x3600; grains of 128 sectors from sector 128 on. QEMU tells of the first error only. */
const VMDK: Record<string, Spoiled> = {
  'a sound image': {},
  'a grain right behind the end': { patches: [[4, 0x3600, 3456]] },
  'a grain at the end': { patches: [[4, 0x3600, 3455]] },
  'two grains past the end': {
    patches: [
      [4, 0x3604, 5000],
      [4, 0x3608, 5000],
    ],
  },
  'a grain where no file ends': { patches: [[4, 0x3600, 0xffffffff]] },
  'a file without its last grains': { size: 0x1a0000 },
  'no grain table': { patches: [[4, 0x3400, 0]] },
};

function baseImage(directory: string, format: string): { bytes: Buffer; contents: Buffer } {
  const path = join(directory, `base.${format}`);
  qemuImg.expect(['create', '-q', '-f', format, path, '10M']);
  const writes = ['write -P 1 0 64k', 'write -P 2 3M 1500k', 'write -P 3 9M 64k'];
  qemuIo.expect(['-f', format, ...writes.flatMap((each) => ['-c', each]), path]);
  return { bytes: readFileSync(path), contents: contentsOf(directory, path, format) };
}

function contentsOf(directory: string, path: string, format: string): Buffer {
  const raw = join(directory, 'contents.raw');
  qemuImg.expect(['convert', '-f', format, '-O', 'raw', path, raw]);
  return readFileSync(raw);
}

async function repairs(t: ExecutionContext, directory: string, spoiled: Named, sound: Sound) {
  const { name, format } = spoiled;
  const bytes = patched(sound.bytes, spoiled.patches ?? [], spoiled.size);
  const path = join(directory, `checked.${format}`);
  if (spoiled.ownRepair === true) {
    writeFileSync(path, bytes);
    t.not((await checkSaid(path, format, 'all')).report, null);
  } else {
    await sameCheck(t, directory, { name, format, bytes, repair: 'all' });
  }
  const repaired = readFileSync(path);
  const after = qemuCheck(path, format);
  t.is(after.status === 0, spoiled.stays !== true, name + after.text + after.stderr);
  await checkSaid(path, format, 'all');
  t.true(readFileSync(path).equals(repaired), `a second repair changes nothing: ${name}`);
  if (spoiled.stays === true && spoiled.lost === undefined) return;
  const [from, to] = spoiled.lost ?? [0, 0];
  const contents = contentsOf(directory, path, format);
  const same = (a: number, b: number) => contents.subarray(a, b).equals(sound.contents.subarray(a, b));
  t.true(same(0, from) && same(to, sound.contents.length), `the disk has what it had: ${name}`);
}

type Sound = ReturnType<typeof baseImage>;
type Named = Spoiled & { name: string; format: string };

for (const [format, cases] of Object.entries({ qed: QED, vdi: VDI, parallels: PARALLELS, vhdx: VHDX, vmdk: VMDK })) {
  test(`check of ${format} finds in spoiled images what qemu-img finds, and says it as qemu-img does`, async (t) => {
    if (qemuImg.missing(t) || qemuIo.missing(t)) return;
    await withTmpDir(async (directory) => {
      const { bytes } = baseImage(directory, format);
      for (const [name, { patches = [], size }] of Object.entries(cases)) {
        await sameCheck(t, directory, { name, format, bytes: patched(bytes, patches, size) });
      }
    });
  });
}

for (const [format, cases] of Object.entries({ qed: QED, parallels: PARALLELS })) {
  test(`check -r of ${format} repairs what qemu-img repairs, once, to the same contents`, async (t) => {
    if (qemuImg.missing(t) || qemuIo.missing(t)) return;
    await withTmpDir(async (directory) => {
      const sound = baseImage(directory, format);
      for (const [name, spoiled] of Object.entries(cases)) {
        await repairs(t, directory, { name, format, ...spoiled }, sound);
      }
    });
  });
}

for (const [format, patch] of Object.entries({ vdi: [4, 0x184, 2], vmdk: [4, 0x3600, 5000] } as const)) {
  test(`check -r of ${format} is refused, and changes nothing`, async (t) => {
    if (qemuImg.missing(t) || qemuIo.missing(t)) return;
    await withTmpDir(async (directory) => {
      const bytes = patched(baseImage(directory, format).bytes, [patch]);
      const said = await sameCheck(t, directory, { name: 'spoiled', format, bytes, repair: 'all' });
      t.is(said.report, null);
      t.true(readFileSync(join(directory, `checked.${format}`)).equals(bytes));
    });
  });
}

test('check of vmdk looks into all extents, compressed and flat ones too', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const image = (name: string) => join(directory, name);
    baseImage(directory, 'qed');
    const convert = ['convert', '-O', 'vmdk', '-o', 'subformat=streamOptimized', image('base.qed')];
    qemuImg.expect([...convert, image('packed.vmdk')]);
    const packed = readFileSync(image('packed.vmdk'));
    await sameCheck(t, directory, { name: 'packed', format: 'vmdk', bytes: packed });
    await sameCheck(t, directory, { name: 'cut off', format: 'vmdk', bytes: packed.subarray(0, 70_000) });

    qemuImg.expect(['create', '-q', '-f', 'vmdk', '-o', 'subformat=twoGbMaxExtentSparse', image('many.vmdk'), '4G']);
    qemuIo.expect(['-c', 'write 0 64k', '-c', 'write 3G 64k', '-f', 'vmdk', image('many.vmdk')]);
    qemuImg.expect(['create', '-q', '-f', 'vmdk', '-o', 'subformat=monolithicFlat', image('flat.vmdk'), '1M']);
    await samePath(t, image('many.vmdk'));
    await samePath(t, image('flat.vmdk'));
    truncateSync(image('many-s002.vmdk'), statSync(image('many-s002.vmdk')).size - 65536);
    truncateSync(image('flat-flat.vmdk'), 65536);
    const said = await samePath(t, image('many.vmdk'));
    t.regex(said.stderr, /sector 6291456 points after EOF/);
    await samePath(t, image('flat.vmdk'));
  });
});

async function samePath(t: ExecutionContext, path: string) {
  const said = await checkSaid(path, 'vmdk', null);
  const theirs = qemuCheck(path, 'vmdk');
  t.is(said.stderr, theirs.stderr);
  t.is(said.stdout, theirs.text);
  return said;
}

test('check says that a VHDX image has a log to be replayed, and check -r replays it', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const blocks = { 0: { state: 6, bytes: Buffer.alloc(MIB, 1) } };
    const log = [{ place: 0, sequence: 1n, updates: [{ offset: 4 * MIB, bytes: Buffer.alloc(4096, 9) }] }];
    const bytes = makeVhdx({ size: 10 * MIB, blocks, log });
    const named = { name: 'a log', format: 'vhdx', bytes };
    const path = join(directory, 'checked.vhdx');
    await sameCheck(t, directory, named);
    t.true(readFileSync(path).equals(bytes));
    await sameCheck(t, directory, { ...named, repair: 'leaks' });
    await sameCheck(t, directory, { ...named, repair: 'all' });
    t.is(qemuCheck(path, 'vhdx').status, 0);
    const repaired = readFileSync(path);
    t.deepEqual(repaired.subarray(4 * MIB, 4 * MIB + 4096), Buffer.alloc(4096, 9));
    t.is((await checkSaid(path, 'vhdx', 'all')).report?.corruptionsFixed, 0);
    t.true(readFileSync(path).equals(repaired), 'a second repair changes nothing');
  });
});

test('a new Parallels image of a large disk, whose BAT qemu-img calls leaking space, is clean', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const path = join(directory, 'large.parallels');
    qemuImg.expect(['create', '-q', '-f', 'parallels', path, '1T']);
    t.is(qemuCheck(path, 'parallels').status, 3);
    const before = readFileSync(path);
    for (const repair of [null, 'all'] as const) {
      const { report } = await checkSaid(path, 'parallels', repair);
      t.deepEqual([report?.leaks, report?.leaksFixed, report?.corruptions], [0, 0, 0]);
    }
    t.true(readFileSync(path).equals(before));
  });
});
