import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { createImage } from '../../lib/formats/create.ts';
import { drivers } from '../../lib/formats/index.ts';
import { openTarget } from '../../lib/formats/open-target.ts';
import { compare, convert } from '../../lib/index.ts';
import { openImage } from '../../lib/sources/open.ts';
import { loadAll, readAll } from '../sources/oracle.ts';
import { DiskModel, pattern, Random } from '../support/model.ts';
import { sparseDisk } from '../support/sparse-disk.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { makeVhd, utf16 } from '../support/vpc-images.ts';

const qemuImg = tool('qemu-img');
const qemuIo = tool('qemu-io');
const sevenZip = tool('7zz');
const MIB = 1024 * 1024;
const GIB = 1024 * MIB;
const SUBFORMATS = ['dynamic', 'fixed'];

/** Offsets of timestamp, checksum and unique ID in a footer: what differs from image to image. */
const OWN_FIELDS = [
  [24, 28],
  [64, 84],
];

function withoutOwnFields(bytes: Buffer): Buffer {
  for (const footer of [0, bytes.length - 512]) {
    if (bytes.toString('latin1', footer, footer + 8) !== 'conectix') continue;
    for (const [from, to] of OWN_FIELDS) bytes.fill(0, footer + from, footer + to);
  }
  return bytes;
}

/** Sizes around the places where the geometry changes its ways, and others at random. */
function sizes(): number[] {
  const random = new Random(3);
  const borders = [0, 34816, 4 * 1024 * 17 * 512, 16 * 1024 * 17 * 512, 16 * 1024 * 31 * 512];
  const large = [
    65535 * 16 * 63 * 512,
    65534 * 16 * 255 * 512,
    65535 * 16 * 255 * 512,
    127 * GIB,
    128 * GIB,
    2040 * GIB,
  ];
  const around = [...borders, ...large].flatMap((size) => [size - 512, size - 1, size, size + 1, size + 512]);
  const others = Array.from({ length: 25 }, () => Math.floor(2 ** (9 + random.below(29) + random.below(100) / 100)));
  return [...new Set([...around, ...others])].filter((size) => size >= 0 && size <= 2040 * GIB);
}

test('new images are what qemu-img makes, byte for byte, but for time and ID', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const [ours, theirs] = [join(directory, 'ours'), join(directory, 'theirs')];
    for (const [index, size] of sizes().entries()) {
      // The largest tables are the same bytes over and over.
      const force = size > 200 * GIB || index % 3 === 0;
      const options = { ...(force ? { force_size: 'on' } : {}) };
      const pairs = Object.entries(options).flatMap(([key, value]) => ['-o', `${key}=${value}`]);
      await (await createImage({ filename: ours, format: 'vpc', size, options, cache: 'unsafe' })).close();
      qemuImg.expect(['create', '-q', '-f', 'vpc', ...pairs, theirs, String(size)]);
      t.true(withoutOwnFields(readFileSync(ours)).equals(withoutOwnFields(readFileSync(theirs))), `${size} bytes`);
      if (size > 64 * GIB || index % 4 !== 0) continue;
      const fixed = { ...options, subformat: 'fixed' };
      await (await createImage({ filename: ours, format: 'vpc', size, options: fixed, cache: 'unsafe' })).close();
      qemuImg.expect(['create', '-q', '-f', 'vpc', '-o', 'subformat=fixed', ...pairs, theirs, String(size)]);
      t.true(withoutOwnFields(tail(ours)).equals(withoutOwnFields(tail(theirs))), `fixed, ${size} bytes`);
    }
  });
});

/** The end of a file too large to be read whole, and its length. */
function tail(path: string): Buffer {
  const { size } = statSync(path);
  const kept = Math.min(size, 4096);
  const end = Buffer.alloc(8);
  end.writeBigUInt64BE(BigInt(size));
  const cut = tool('tail').run(['-c', String(kept), path]).stdout;
  return Buffer.concat([end, cut]);
}

/** The same writes for qemu-io and for a target of ours. */
interface Write {
  offset: number;
  length: number;
  byte: number;
}

function randomWrites(size: number, random: Random): Write[] {
  return Array.from({ length: 14 }, () => {
    const offset = random.below(size / 512) * 512;
    const length = Math.min(size - offset, 512 * (1 + random.below(random.pick([4, 300, 6000]))));
    return { offset, length, byte: random.pick([0, 1 + random.below(255)]) };
  });
}

function writeByQemu(path: string, writes: readonly Write[]): void {
  const commands = writes.flatMap(({ offset, length, byte }) => ['-c', `write -P ${byte} ${offset} ${length}`]);
  const said = qemuIo.expect(['-f', 'vpc', ...commands, path]);
  if (/error|fail/i.test(said)) throw new Error(said);
}

async function writeByUs(path: string, writes: readonly Write[], atOnce: boolean): Promise<void> {
  const target = await openTarget(path, { format: 'vpc', cache: 'unsafe' });
  const one = ({ offset, length, byte }: Write) =>
    byte === 0 ? target.zero(offset, length, { unmap: true }) : target.write(offset, Buffer.alloc(length, byte));
  if (atOnce) await Promise.all(writes.map(one));
  else for (const each of writes) await one(each);
  await target.close();
}

function note(model: DiskModel, writes: readonly Write[]): void {
  for (const { offset, length, byte } of writes) model.write(offset, Buffer.alloc(length, byte));
}

for (const subformat of SUBFORMATS) {
  test(`${subformat}: who writes in turn with qemu-io gets what both wrote`, async (t) => {
    if (qemuImg.missing(t) || qemuIo.missing(t)) return;
    await withTmpDir(async (directory) => {
      for (const seed of [1, 2, 3, 4]) {
        const random = new Random(seed);
        const path = join(directory, `${seed}.vhd`);
        const size = 512 * (1 + random.below(30_000));
        const options = { subformat, force_size: 'on' };
        if (seed % 2 === 0) await (await createImage({ filename: path, format: 'vpc', size, options })).close();
        else
          qemuImg.expect(['create', '-q', '-f', 'vpc', '-o', `subformat=${subformat},force_size=on`, path, `${size}`]);
        const model = new DiskModel(size);
        for (const round of [0, 1, 2, 3]) {
          const writes = randomWrites(size, random);
          if ((round + seed) % 2 === 0) writeByQemu(path, writes);
          else await writeByUs(path, writes, false);
          note(model, writes);
        }
        const raw = join(directory, 'theirs.raw');
        qemuImg.expect(['convert', '-f', 'vpc', '-O', 'raw', path, raw]);
        t.is(model.mismatch(0, readFileSync(raw)), -1, `qemu-img, seed ${seed}`);
        const image = await openImage(path, { drivers: drivers(), format: 'vpc' });
        t.is(model.mismatch(0, await readAll(image.source)), -1, `read, seed ${seed}`);
        t.is(model.mismatch(0, await loadAll(image.source)), -1, `map and load, seed ${seed}`);
        await image.close();
        // The last sector is the footer, as in any sound image, and is what the copy at the start is.
        const bytes = readFileSync(path);
        t.is(bytes.toString('latin1', bytes.length - 512, bytes.length - 504), 'conectix');
        if (subformat === 'dynamic') t.true(bytes.subarray(0, 512).equals(bytes.subarray(-512)));
      }
    });
  });

  test(`${subformat}: converted there and back, by either program, a disk stays what it was`, async (t) => {
    if (qemuImg.missing(t)) return;
    await withTmpDir(async (directory) => {
      for (const [seed, size] of [512, 34816, 5 * MIB + 512, 9 * MIB].entries()) {
        const [raw, ours, theirs] = ['disk.raw', 'ours.vhd', 'theirs.vhd'].map((name) => join(directory, name));
        writeFileSync(raw, sparseDisk(size, seed));
        const createOptions = { subformat, force_size: 'on' };
        const input = { filename: raw, format: 'raw' };
        await convert({ inputs: [input], output: { filename: ours }, outputFormat: 'vpc', createOptions });
        const options = `subformat=${subformat},force_size=on`;
        qemuImg.expect(['convert', '-f', 'raw', '-O', 'vpc', '-o', options, raw, theirs]);
        for (const path of [ours, theirs]) {
          qemuImg.expect(['compare', '-f', 'vpc', '-F', 'raw', path, raw]);
          const result = await compare({ left: { filename: path, format: 'vpc' }, right: input });
          t.true(result.identical, path);
        }
        t.is(statSync(ours).size, statSync(theirs).size);
        const back = join(directory, 'back.raw');
        await convert({ inputs: [{ filename: theirs, format: 'vpc' }], output: { filename: back } });
        t.true(readFileSync(back).equals(readFileSync(raw)));
        // Onto an image that exists, which has other data.
        await writeByUs(theirs, [{ offset: 0, length: size, byte: 9 }], true);
        await convert({
          inputs: [input],
          output: { filename: theirs, format: 'vpc' },
          outputFormat: 'vpc',
          create: false,
        });
        qemuImg.expect(['compare', '-f', 'vpc', '-F', 'raw', theirs, raw]);
      }
    });
  });
}

test('the largest disks are written to at their ends, and read, by both', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    for (const [index, size] of [127 * GIB, 2040 * GIB].entries()) {
      const [path, theirs] = [join(directory, `${index}.vhd`), join(directory, `${index}-theirs.vhd`)];
      const target = await createImage({ filename: path, format: 'vpc', size, options: { force_size: 'on' } });
      t.is(target.size, size);
      const places = [0, size / 2 - 4096, size - 8192];
      for (const [seed, offset] of places.entries()) await target.write(offset, pattern(8192, seed));
      await target.close();
      qemuImg.expect(['create', '-q', '-f', 'vpc', '-o', 'force_size=on', theirs, String(size)]);
      const writes = places.map((offset) => ({ offset, length: 8192, byte: 5 }));
      writeByQemu(theirs, writes);
      t.is(qemuImg.expect(['map', '--output=json', path]), qemuImg.expect(['map', '--output=json', theirs]));
      const reads = places.flatMap((offset) => ['-c', `read -P 5 ${offset} 8192`]);
      await writeByUs(path, writes, true);
      t.notRegex(qemuIo.expect(['-f', 'vpc', ...reads, path]), /fail|error/i);
      const image = await openImage(theirs, { drivers: drivers() });
      for (const { offset, length } of writes) {
        const found = Buffer.alloc(length);
        await image.source.read(offset, found);
        t.true(found.equals(Buffer.alloc(length, 5)));
      }
      await image.close();
    }
  });
});

test('7-Zip reads what is written here, and differencing disks, unlike qemu-img, as we do', async (t) => {
  if (sevenZip.missing(t)) return;
  await withTmpDir(async (directory) => {
    const unpacked = (path: string) => sevenZip.run(['x', '-so', '-tvhd', path], { cwd: directory }).stdout;
    const raw = join(directory, 'disk.raw');
    const bottom = sparseDisk(5 * MIB + 512, 1);
    writeFileSync(raw, bottom);
    for (const subformat of SUBFORMATS) {
      const path = join(directory, `${subformat}.vhd`);
      const createOptions = { subformat, force_size: 'on' };
      const inputs = [{ filename: raw, format: 'raw' }];
      await convert({ inputs, output: { filename: path }, outputFormat: 'vpc', createOptions });
      t.true(unpacked(path).equals(bottom), subformat);
    }
    const uniqueId = Buffer.alloc(16, 1);
    writeFileSync(join(directory, 'parent.vhd'), makeVhd({ disk: bottom, uniqueId }));
    for (const blockSize of [2 * MIB, 512 * 1024]) {
      const random = new Random(blockSize);
      const disk = sparseDisk(bottom.length, blockSize);
      const sectors = Array.from({ length: disk.length / 512 }, () => random.below(3) === 0);
      const locators = [['W2ru', utf16('.\\parent.vhd')]] as const;
      const parent = { uniqueId, locators, name: 'parent.vhd' };
      const child = join(directory, 'child.vhd');
      writeFileSync(child, makeVhd({ disk, blockSize, present: (sector) => sectors[sector], parent }));
      const image = await openImage(child, { drivers: drivers() });
      const found = await readAll(image.chain).finally(() => image.close());
      t.false(found.equals(bottom));
      t.true(unpacked(child).equals(found), `${blockSize}`);
    }
  });
});
