import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { drivers } from '../../lib/formats/index.ts';
import { compare, convert } from '../../lib/index.ts';
import { openImage } from '../../lib/sources/open.ts';
import { loadAll, readAll } from '../sources/oracle.ts';
import { DMG_CHUNKS, type DmgChunk, makeDmg } from '../support/dmg-images.ts';
import { bundleProgram, type Program } from '../support/program.ts';
import { sparseDisk } from '../support/sparse-disk.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { sameAsQemu, sameReading, sameRefusals } from './same-words.ts';

const qemuImg = tool('qemu-img');
const dmg2img = tool('dmg2img');
const sevenZip = tool('7zz');
const packers = [tool('bzip2'), tool('xz')];

/** qemu-img of Debian says on each use that it can't read bzip2 and LZFSE. Ours can. */
const MISSING_MODULES = /^qemu: module .* not found, do you want to install .* package\?\n/gm;

let program: Program;
test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program?.remove());

/** A disk with a long run of zeros, and its last sectors in a chunk that is shorter than the others. */
function diskOf(sectors: number, seed: number): Buffer {
  const disk = sparseDisk(sectors * 512, seed);
  return disk.fill(0, Math.floor(sectors / 3) * 512, Math.floor(sectors / 2) * 512);
}

test('images read as they were made, whatever their chunks, partitions and tables', async (t) => {
  if (packers.some((each) => each.missing(t))) return;
  await withTmpDir(async (directory) => {
    const every = Object.keys(DMG_CHUNKS) as DmgChunk[];
    const data = every.filter((name) => name !== 'zero' && name !== 'ignore');
    const recipes = [
      ...data.map((name) => ({ chunks: [name], chunkSectors: 200 })),
      { chunks: data, zeros: every, chunkSectors: 40, partitions: 3, lead: 77, padded: true },
      { chunks: data, chunkSectors: 64, tables: 'resources' as const, partitions: 2, lead: 512 },
      { chunks: ['zlib' as const, 'raw' as const], chunkSectors: 5000, padded: true },
    ];
    for (const [index, recipe] of recipes.entries()) {
      const disk = diskOf(901, index);
      const path = join(directory, `${index}.dmg`);
      writeFileSync(path, makeDmg(disk, recipe));
      const image = await openImage(path, { drivers: drivers() });
      t.is(image.driver.name, 'dmg');
      t.true((await readAll(image.source, 12_345)).equals(disk), `read, ${recipe.chunks}`);
      t.true((await loadAll(image.source)).equals(disk), `map and load, ${recipe.chunks}`);
      await image.close();
    }
  });
});

test('qemu-img reads the same where it can, and says the same', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const [path, theirs, ours] = ['image.dmg', 'theirs.raw', 'ours.qcow2'].map((name) => join(directory, name));
    const recipes = [
      { chunks: ['zlib' as const], chunkSectors: 100 },
      { chunks: ['raw' as const, 'zlib' as const], partitions: 3, tables: 'resources' as const, lead: 99 },
      { chunks: ['zlib' as const, 'raw' as const], partitions: 2, chunkSectors: 64, padded: true, lead: 4096 },
    ];
    for (const [index, recipe] of recipes.entries()) {
      const disk = diskOf(4000 + index, 20 + index);
      writeFileSync(path, makeDmg(disk, recipe));
      qemuImg.expect(['convert', '-f', 'dmg', '-O', 'raw', path, theirs]);
      t.true(readFileSync(theirs).equals(disk), `qemu-img, ${index}`);
      await convert({ inputs: [{ filename: path }], output: { filename: ours }, outputFormat: 'qcow2' });
      t.regex(qemuImg.expect(['compare', '-f', 'qcow2', '-F', 'raw', ours, theirs]), /identical/);
      t.true((await compare({ left: { filename: path }, right: { filename: theirs } })).identical);
    }
    sameReading(t, program, path, MISSING_MODULES);
  });
});

test('dmg2img reads the same: zlib, bzip2 and ADC', async (t) => {
  if (dmg2img.missing(t) || packers.some((each) => each.missing(t))) return;
  await withTmpDir((directory) => {
    const [path, theirs] = ['image.dmg', 'theirs.raw'].map((name) => join(directory, name));
    const disk = diskOf(2000, 30);
    for (const name of ['raw', 'zlib', 'bzip2', 'adc'] as const) {
      writeFileSync(path, makeDmg(disk, { chunks: [name], chunkSectors: 100 }));
      dmg2img.expect(['-s', path, theirs]);
      t.true(readFileSync(theirs).equals(disk), name);
    }
  });
});

test('7-Zip reads the same: ADC, LZFSE, LZVN and LZMA', async (t) => {
  if (sevenZip.missing(t) || packers.some((each) => each.missing(t))) return;
  await withTmpDir((directory) => {
    const [path, extracted] = ['image.dmg', 'extracted'].map((name) => join(directory, name));
    const disk = diskOf(1200, 40);
    for (const name of ['adc', 'lzfse', 'lzvn', 'lzma'] as const) {
      // Chunks so small that each is one block of LZFSE: 7-Zip 26.02 fails at the second one.
      writeFileSync(path, makeDmg(disk, { chunks: [name], chunkSectors: 64 }));
      rmSync(extracted, { recursive: true, force: true });
      // It warns of trailers that lack what it knows no name for: its exit code says nothing.
      sevenZip.run(['x', '-y', '-tdmg', `-o${extracted}`, path]);
      const [file] = readdirSync(extracted);
      t.true(readFileSync(join(extracted, file)).equals(disk), name);
    }
  });
});

test('nobody writes one: all ways are refused in the words of qemu-img', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir((directory) => {
    const [image, raw, fresh] = ['image.dmg', 'disk.raw', 'fresh'].map((name) => join(directory, name));
    const bytes = makeDmg(diskOf(2048, 1));
    writeFileSync(image, bytes);
    writeFileSync(raw, Buffer.alloc(2048 * 512, 7));
    sameRefusals(t, program, 'dmg', { image, raw, fresh }, MISSING_MODULES);
    t.true(readFileSync(image).equals(bytes));
    t.false(existsSync(fresh));
  });
});

test('a file that is none by its name only is refused in the words of qemu-img', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir((directory) => {
    const path = join(directory, 'not.dmg');
    for (const length of [1, 1024, 5000]) {
      writeFileSync(path, Buffer.alloc(length, 0x55));
      sameAsQemu(t, program, 'info {}', path, MISSING_MODULES);
    }
    // Four letters of a name are no more than a suffix.
    const bare = join(directory, '.dmg');
    writeFileSync(bare, Buffer.alloc(1024));
    const { text, status } = program.run(['info', '.dmg'], { cwd: directory });
    t.is(status, 0);
    t.regex(text, /file format: raw/);
  });
});
