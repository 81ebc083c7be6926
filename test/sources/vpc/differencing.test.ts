import { readFileSync, writeFileSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { drivers } from '../../../lib/formats/index.ts';
import { openTarget } from '../../../lib/formats/open-target.ts';
import { info } from '../../../lib/pipelines/info.ts';
import { parseImageOpts } from '../../../lib/sources/filename.ts';
import { openImage } from '../../../lib/sources/open.ts';
import { checkReads, collectMap } from '../../conformance/checks.ts';
import { DiskModel, pattern, Random } from '../../support/model.ts';
import { withTmpDir } from '../../support/tmp.ts';
import { makeVhd, utf16 } from '../../support/vpc-images.ts';

const SECTOR = 512;
const PARENT_ID = Buffer.alloc(16, 1);
const CHILD_ID = Buffer.alloc(16, 2);

/** Sectors in runs of random lengths, whole blocks among them. */
function randomSectors(count: number, random: Random): boolean[] {
  const present: boolean[] = [];
  while (present.length < count) {
    const length = random.pick([1, 3, 8, 100, 1024, 4096]);
    const kind = random.below(2) === 0;
    for (let index = 0; index < length && present.length < count; index += 1) present.push(kind);
  }
  return present;
}

/** A child of `below`, and what it reads as. */
function makeChild(
  below: Buffer,
  blockSize: number,
  random: Random,
  locators: readonly [string, Buffer][],
  id: Buffer,
) {
  const present = randomSectors(below.length / SECTOR, random);
  const disk = pattern(below.length, random.below(200));
  const model = new DiskModel(below.length, below);
  present.forEach((there, sector) => {
    if (there) model.write(sector * SECTOR, disk.subarray(sector * SECTOR, (sector + 1) * SECTOR));
  });
  const image = makeVhd({
    disk,
    blockSize,
    present: (sector) => present[sector],
    parent: { uniqueId: id, locators },
    uniqueId: CHILD_ID,
    order: (blocks) => random.shuffled(blocks),
  });
  return { image, model };
}

for (const blockSize of [512, 4096, 64 * 1024, 512 * 1024, 2 * 1024 * 1024]) {
  test(`blocks of ${blockSize} bytes: each sector comes from the disk whose bitmap has it`, async (t) => {
    await withTmpDir(async (directory) => {
      const random = new Random(blockSize);
      const size = Math.min(5 * 1024 * 1024, blockSize * 200) + 3 * SECTOR;
      const bottom = pattern(size, 9);
      writeFileSync(join(directory, 'parent.vhd'), makeVhd({ disk: bottom, blockSize, uniqueId: PARENT_ID }));
      const locators: [string, Buffer][] = [['W2ru', utf16('.\\parent.vhd')]];
      const { image, model } = makeChild(bottom, blockSize, random, locators, PARENT_ID);
      writeFileSync(join(directory, 'child.vhd'), image);
      const opened = await openImage(join(directory, 'child.vhd'), { drivers: drivers() });
      try {
        t.deepEqual(opened.source.backing, { filename: 'parent.vhd', format: 'vpc' });
        await t.notThrowsAsync(checkReads(opened.chain, model, random));
        // The layer alone: what is in it, by its map.
        for (const each of await collectMap(opened.source, 0, size)) {
          const expected = model.bytes.subarray(each.offset, each.offset + each.length);
          if (each.kind === 'data') {
            const plain = Buffer.alloc(each.length);
            await each.host?.read(each.hostOffset, plain);
            t.true(plain.equals(expected));
          } else {
            t.is(each.kind, 'unallocated');
            t.true(expected.equals(bottom.subarray(each.offset, each.offset + each.length)));
          }
        }
      } finally {
        await opened.close();
      }
    });
  });
}

test('a chain of three, of which the lowest is a fixed disk, reads as its layers say', async (t) => {
  await withTmpDir(async (directory) => {
    const random = new Random(4);
    const bottom = pattern(3 * 1024 * 1024, 5);
    const fixedFooter = makeVhd({ disk: bottom, uniqueId: PARENT_ID }).subarray(0, SECTOR);
    fixedFooter.writeUInt32BE(2, 60);
    fixedFooter.writeUInt32BE((fixedFooter.readUInt32BE(64) + 1) >>> 0, 64);
    writeFileSync(join(directory, 'fixed.vhd'), Buffer.concat([bottom, fixedFooter]));
    const middle = makeChild(bottom, 512 * 1024, random, [['W2ru', utf16('fixed.vhd')]], PARENT_ID);
    writeFileSync(join(directory, 'middle.vhd'), middle.image);
    const top = makeChild(middle.model.bytes, 2 * 1024 * 1024, random, [['W2ru', utf16('middle.vhd')]], CHILD_ID);
    writeFileSync(join(directory, 'top.vhd'), top.image);
    const opened = await openImage(join(directory, 'top.vhd'), { drivers: drivers() });
    const found = Buffer.alloc(bottom.length);
    await opened.chain.read(0, found).finally(() => opened.close());
    t.is(top.model.mismatch(0, found), -1);
    const chain = await info({ image: { filename: join(directory, 'top.vhd') }, backingChain: true });
    t.deepEqual(
      chain.map(({ format, backingFilename, clusterSize }) => [format, backingFilename, clusterSize]),
      [
        ['vpc', 'middle.vhd', 2 * 1024 * 1024],
        ['vpc', 'fixed.vhd', 512 * 1024],
        ['vpc', null, null],
      ],
    );
  });
});

/** Ways to name the parent, and which file they mean in a directory that has `images/` beside the child. */
const NAMES: readonly { title: string; locators: [string, string][]; name?: string; finds: string }[] = [
  { title: 'relative, below', locators: [['W2ru', '.\\images\\parent.vhd']], finds: 'images/parent.vhd' },
  { title: 'with slashes', locators: [['W2ru', './images/parent.vhd\0\0']], finds: 'images/parent.vhd' },
  { title: 'on a drive', locators: [['W2ku', 'C:\\VMs\\parent.vhd']], finds: 'parent.vhd' },
  { title: 'on a share', locators: [['W2ku', '\\\\server\\VMs\\parent.vhd']], finds: 'parent.vhd' },
  { title: 'as a URL', locators: [['MacX', 'file://localhost{dir}/parent%2evhd']], finds: '{dir}/parent.vhd' },
  { title: 'as XenServer does', locators: [['MacX', 'file://./parent.vhd']], finds: 'parent.vhd' },
  { title: 'by its name alone', locators: [], name: 'D:\\old\\parent.vhd', finds: 'parent.vhd' },
  {
    title: 'gone in one way, there in another',
    locators: [
      ['W2ru', '.\\gone.vhd'],
      ['W2ku', 'C:\\parent.vhd'],
    ],
    finds: 'parent.vhd',
  },
  {
    title: 'an image of another ID first',
    locators: [
      ['W2ku', 'C:\\parent.vhd'],
      ['W2ru', '.\\other.vhd'],
    ],
    finds: 'parent.vhd',
  },
  { title: 'like a protocol', locators: [['W2ru', 'json:{}.vhd']], finds: './json:{}.vhd' },
];

for (const { title, locators, name, finds } of NAMES) {
  test(`a parent that is named ${title} is found`, async (t) => {
    await withTmpDir(async (directory) => {
      const disk = pattern(8192, 3);
      const parent = makeVhd({ disk, uniqueId: PARENT_ID });
      await mkdir(join(directory, 'images'));
      for (const place of ['parent.vhd', 'images/parent.vhd', 'json:{}.vhd'])
        writeFileSync(join(directory, place), parent);
      writeFileSync(join(directory, 'other.vhd'), makeVhd({ disk, uniqueId: CHILD_ID }));
      const bytes = locators.map(([platform, text]): [string, Buffer] => {
        const said = text.replace('{dir}', directory);
        return [platform, platform === 'MacX' ? Buffer.from(said) : utf16(said)];
      });
      const child = join(directory, 'child.vhd');
      writeFileSync(
        child,
        makeVhd({ disk, present: () => false, parent: { uniqueId: PARENT_ID, name, locators: bytes } }),
      );
      const opened = await openImage(child, { drivers: drivers() });
      t.is(opened.source.backing?.filename, finds.replace('{dir}', directory));
      const model = new DiskModel(disk.length, disk);
      await t.notThrowsAsync(checkReads(opened.chain, model, new Random(1)).finally(() => opened.close()));
    });
  });
}

test('a parent that is missing, another one, or not named is refused', async (t) => {
  await withTmpDir(async (directory) => {
    const disk = pattern(4096, 3);
    const child = join(directory, 'child.vhd');
    const write = (locators: readonly [string, Buffer][]) =>
      writeFileSync(child, makeVhd({ disk, present: () => false, parent: { uniqueId: PARENT_ID, locators } }));
    write([['W2ru', utf16('.\\parent.vhd')]]);
    await t.throwsAsync(openImage(child, { drivers: drivers() }), { name: 'ImageError', message: /No such file/ });
    writeFileSync(join(directory, 'parent.vhd'), makeVhd({ disk, uniqueId: CHILD_ID }));
    await t.throwsAsync(openImage(child, { drivers: drivers() }), { name: 'ImageError', message: /unique ID differs/ });
    // What the user puts in its place is taken, as is the disk alone.
    writeFileSync(join(directory, 'parent.raw'), disk);
    const node = `driver=vpc,file.filename=${child},backing.driver=raw,backing.file.filename=${directory}/parent.raw`;
    const opened = await openImage(parseImageOpts(node), { drivers: drivers() });
    const found = Buffer.alloc(disk.length);
    await opened.chain.read(0, found).finally(() => opened.close());
    t.true(found.equals(disk));
    await (await openImage(child, { drivers: drivers(), backing: false })).close();
    write([['W2ru', utf16('.\\images\\')]]);
    await t.throwsAsync(openImage(child, { drivers: drivers() }), { name: 'ImageError', message: /does not name/ });
    // Itself: the chain would have no end.
    const own = makeVhd({
      disk,
      present: () => false,
      uniqueId: PARENT_ID,
      parent: { uniqueId: PARENT_ID, locators: [['W2ru', utf16('child.vhd')]] },
    });
    writeFileSync(child, own);
    await t.throwsAsync(openImage(child, { drivers: drivers() }), { name: 'ImageError', message: /infinite loop/ });
  });
});

test('what the policy forbids is not opened, not even to look at its ID', async (t) => {
  await withTmpDir(async (directory) => {
    const disk = pattern(4096, 3);
    const child = join(directory, 'child.vhd');
    const locators: [string, Buffer][] = [['W2ku', utf16('/etc/shadow')]];
    writeFileSync(child, makeVhd({ disk, present: () => false, parent: { uniqueId: PARENT_ID, locators } }));
    const asked: string[] = [];
    const implicit = (reference: string) => {
      asked.push(reference);
      return false;
    };
    await t.throwsAsync(openImage(child, { drivers: drivers(), implicit }), { name: 'ImageError', message: /may not/ });
    t.deepEqual([...new Set(asked)], ['/etc/shadow']);
  });
});

test('a differencing disk is not written to, and stays as it was', async (t) => {
  await withTmpDir(async (directory) => {
    const disk = pattern(4096, 3);
    const path = join(directory, 'child.vhd');
    writeFileSync(join(directory, 'parent.vhd'), makeVhd({ disk, uniqueId: PARENT_ID }));
    const locators: [string, Buffer][] = [['W2ru', utf16('parent.vhd')]];
    const bytes = makeVhd({ disk, present: (sector) => sector < 3, parent: { uniqueId: PARENT_ID, locators } });
    writeFileSync(path, bytes);
    await t.throwsAsync(openTarget(path), { name: 'ImageError', message: /Differencing disks are not supported/ });
    t.true(readFileSync(path).equals(bytes));
  });
});
