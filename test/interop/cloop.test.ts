import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { drivers } from '../../lib/formats/index.ts';
import { convert } from '../../lib/index.ts';
import { openImage } from '../../lib/sources/open.ts';
import { loadAll, readAll } from '../sources/oracle.ts';
import { makeCloop } from '../support/cloop-images.ts';
import { bundleProgram, type Program } from '../support/program.ts';
import { sparseDisk } from '../support/sparse-disk.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { patched, sameAsQemu, sameReading, sameRefusals } from './same-words.ts';

const qemuImg = tool('qemu-img');
const createCompressed = tool('create_compressed_fs');
const KIB = 1024;

let program: Program;
test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program?.remove());

test('images of every block size read as qemu-img reads them, and as they were made', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const recipes: [size: number, blockSize: number][] = [
      [0, 65536],
      [512, 512],
      [9000 * 512, 512],
      [3 * 1024 * KIB, 1536],
      [1024 * KIB + 512, 65536],
      [9 * 1024 * KIB, 4096 * KIB],
    ];
    for (const [size, blockSize] of recipes) {
      const disk = Buffer.alloc(Math.ceil(size / blockSize) * blockSize);
      sparseDisk(size, blockSize).copy(disk);
      const path = join(directory, 'image');
      writeFileSync(path, makeCloop(disk, blockSize));
      const image = await openImage(path, { drivers: drivers() });
      t.is(image.driver.name, 'cloop');
      t.true((await readAll(image.source)).equals(disk), `read, ${blockSize}`);
      t.true((await loadAll(image.source)).equals(disk), `map and load, ${blockSize}`);
      await image.close();
      const raw = join(directory, 'theirs.raw');
      qemuImg.expect(['convert', '-O', 'raw', path, raw]);
      t.true(readFileSync(raw).equals(disk), `qemu-img, ${blockSize}`);
    }
    sameReading(t, program, join(directory, 'image'));
  });
});

test('what create_compressed_fs makes is read', async (t) => {
  if (createCompressed.missing(t) || qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const [source, path, back] = ['source.raw', 'image', 'back.raw'].map((name) => join(directory, name));
    const disk = sparseDisk(64 * 65536, 5);
    writeFileSync(source, disk);
    for (const blockSize of ['65536', '4096']) {
      createCompressed.expect(['-q', '-B', blockSize, source, path]);
      await convert({ inputs: [{ filename: path }], output: { filename: back }, outputFormat: 'raw' });
      t.true(readFileSync(back).equals(disk), blockSize);
    }
  });
});

test('nobody writes one: all ways are refused in the words of qemu-img', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir((directory) => {
    const [image, raw, fresh] = ['image', 'disk.raw', 'fresh'].map((name) => join(directory, name));
    const bytes = makeCloop(sparseDisk(1024 * KIB, 1));
    writeFileSync(image, bytes);
    writeFileSync(raw, Buffer.alloc(1024 * KIB, 7));
    sameRefusals(t, program, 'cloop', { image, raw, fresh });
    t.true(readFileSync(image).equals(bytes));
    t.false(existsSync(fresh));
  });
});

test('headers and tables that cannot be are refused in the words of qemu-img', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir((directory) => {
    const bytes = makeCloop(sparseDisk(1024 * KIB, 1));
    const path = join(directory, 'image');
    const fields: [number, 4 | 8, bigint][] = [
      [0, 4, 0n],
      [128, 4, 0n],
      [128, 4, 1000n],
      [128, 4, 0x400_0000n],
      [128, 4, 0x400_0200n],
      [132, 4, 0n],
      [132, 4, 15n],
      [132, 4, 0x400_0000n],
      [132, 4, 0xffff_ffffn],
      [136, 8, 0n],
      [144, 8, 0n],
      [144, 8, 0x1_0000_0000n],
      [152, 8, 0xffff_ffff_ffff_ffffn],
    ];
    for (const field of fields) {
      writeFileSync(path, patched(bytes, field, 'big'));
      sameAsQemu(t, program, 'info -f cloop {}', path);
    }
  });
});
