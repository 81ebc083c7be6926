import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { drivers } from '../../lib/formats/index.ts';
import { compare, convert } from '../../lib/index.ts';
import { openImage } from '../../lib/sources/open.ts';
import { loadAll, readAll } from '../sources/oracle.ts';
import { makeBochs } from '../support/bochs-images.ts';
import { bundleProgram, type Program } from '../support/program.ts';
import { sparseDisk } from '../support/sparse-disk.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { patched, sameAsQemu, sameReading, sameRefusals } from './same-words.ts';

const qemuImg = tool('qemu-img');
const bximage = tool('bximage');
const KIB = 1024;

let program: Program;
test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program?.remove());

test('images of every version, extent size and order read as qemu-img reads them, and as they were made', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const recipes = [
      { size: 3000 * 512, recipe: {} },
      { size: 3001 * 512, recipe: { version: 1 as const, seed: 1 } },
      { size: 512, recipe: { extentSize: 512 } },
      { size: 777 * 512, recipe: { extentSize: 512, seed: 2 } },
      { size: 5000 * 512, recipe: { extentSize: 4096 * KIB, spareEntries: 3 } },
      { size: 20_000 * 512, recipe: { extentSize: 64 * KIB, seed: 3 } },
      { size: 0, recipe: { spareEntries: 1 } },
    ];
    for (const [index, { size, recipe }] of recipes.entries()) {
      const disk = sparseDisk(size, index);
      const path = join(directory, `${index}.bochs`);
      writeFileSync(path, makeBochs(disk, recipe));
      const image = await openImage(path, { drivers: drivers() });
      t.is(image.driver.name, 'bochs');
      t.true((await readAll(image.source, 12_345)).equals(disk), `read, ${index}`);
      t.true((await loadAll(image.source)).equals(disk), `map and load, ${index}`);
      await image.close();
      const raw = join(directory, 'theirs.raw');
      qemuImg.expect(['convert', '-O', 'raw', path, raw]);
      t.true(readFileSync(raw).equals(disk), `qemu-img, ${index}`);
    }
    sameReading(t, program, join(directory, '3.bochs'));
  });
});

test('what bximage makes is read, and stays what it was on its way through other formats', async (t) => {
  if (bximage.missing(t) || qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const [source, path, back] = ['source.raw', 'image', 'back.qcow2'].map((name) => join(directory, name));
    // bximage counts in cylinders of 16 heads and 63 sectors.
    const disk = sparseDisk(16 * 63 * 512 * 9, 5);
    writeFileSync(source, disk);
    bximage.expect(['-func=convert', '-imgmode=growing', '-q', source, path]);
    sameReading(t, program, path);
    await convert({ inputs: [{ filename: path }], output: { filename: back }, outputFormat: 'qcow2' });
    t.regex(qemuImg.expect(['compare', back, source]), /identical/);
    const { identical } = await compare({ left: { filename: path }, right: { filename: back } });
    t.true(identical);
    t.true(
      program.run(['dd', '-O', 'raw', `if=${path}`, `of=${join(directory, 'dd.raw')}`, 'bs=64k', 'skip=1']).status ===
        0,
    );
    t.true(readFileSync(join(directory, 'dd.raw')).equals(disk.subarray(65536)));
  });
});

test('nobody writes one: all ways are refused in the words of qemu-img', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir((directory) => {
    const [image, raw, fresh] = ['image', 'disk.raw', 'fresh'].map((name) => join(directory, name));
    const bytes = makeBochs(sparseDisk(1024 * KIB, 1));
    writeFileSync(image, bytes);
    writeFileSync(raw, Buffer.alloc(1024 * KIB, 7));
    sameRefusals(t, program, 'bochs', { image, raw, fresh });
    t.true(readFileSync(image).equals(bytes));
    t.false(existsSync(fresh));
  });
});

test('headers that cannot be are refused in the words of qemu-img', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir((directory) => {
    const bytes = makeBochs(sparseDisk(1024 * KIB, 1));
    const path = join(directory, 'image');
    const fields: [number, 4 | 8, bigint][] = [
      [0, 4, 0n],
      [48, 4, 0n],
      [64, 4, 0x30000n],
      [72, 4, 1n],
      [72, 4, 0x10_0001n],
      [72, 4, 0xffff_ffffn],
      [80, 4, 0n],
      [80, 4, 256n],
      [80, 4, 0x4001n],
      [80, 4, 0x100_0000n],
      [80, 4, 0xffff_ffffn],
      [88, 8, 0n],
      [88, 8, 1000n],
      [88, 8, 0x10_0001n],
      [88, 8, 0x11_0000n],
      [88, 8, 0xffff_ffff_ffff_ffffn],
    ];
    for (const field of fields) {
      writeFileSync(path, patched(bytes, field, 'little'));
      sameAsQemu(t, program, 'info -f bochs {}', path);
    }
  });
});
