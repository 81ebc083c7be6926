import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { createImage } from '../../lib/formats/create.ts';
import {
  applySnapshot,
  bitmap,
  commit,
  convert,
  createSnapshot,
  deleteSnapshot,
  measure,
  rebase,
  resize,
} from '../../lib/index.ts';
import { parseImageOpts } from '../../lib/sources/filename.ts';
import { open, readAll } from '../sources/oracle.ts';
import { pattern } from '../support/model.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { AES, expected, KIB, key, LUKS, MIB, make, OBJECTS, secrets, soundDisk, write } from './encrypted-disks.ts';

const qemuImg = tool('qemu-img');

for (const [name, options] of [
  ['luks', `${LUKS},cluster_size=4k,encrypt.key-secret=s`],
  ['aes', `${AES},cluster_size=4k,encrypt.key-secret=s`],
]) {
  test(`snapshots of an image encrypted with ${name} are taken, read, applied and deleted`, async (t) => {
    if (qemuImg.missing(t)) return;
    await withTmpDir(async (directory) => {
      const path = join(directory, 'x');
      await make(path, `${options},size=1M`);
      const image = parseImageOpts(key(path));
      await write(key(path), 1000, pattern(200 * KIB, 1));
      const first = await soundDisk(directory, key(path));
      await createSnapshot('one', { image, secrets });
      await write(key(path), 50_000, pattern(100_100, 2));
      const second = await soundDisk(directory, key(path));
      t.false(first.equals(second));
      const raw = join(directory, 'snapshot.raw');
      await convert({
        inputs: [image],
        snapshot: { name: 'one' },
        output: { filename: raw },
        outputFormat: 'raw',
        secrets,
      });
      t.true(readFileSync(raw).equals(first));
      await applySnapshot('one', { image, secrets });
      t.true((await soundDisk(directory, key(path))).equals(first));
      await write(key(path), 0, pattern(3000, 3));
      await deleteSnapshot('one', { image, secrets });
      t.true(
        (await soundDisk(directory, key(path))).equals(
          expected(MIB, [
            [0, first],
            [0, pattern(3000, 3)],
          ]),
        ),
      );
    });
  });

  test(`a disk encrypted with ${name} grows and shrinks, and what is added reads as zeros`, async (t) => {
    if (qemuImg.missing(t)) return;
    await withTmpDir(async (directory) => {
      const path = join(directory, 'x');
      await make(path, `${options},size=1M`);
      const image = parseImageOpts(key(path));
      await write(key(path), 0, pattern(MIB, 1));
      await resize({ image, secrets, size: 300 * KIB, shrink: true });
      for (const preallocation of ['off', 'metadata', 'full']) {
        await resize({ image, secrets, size: 300 * KIB, relative: true, preallocation });
      }
      const now = expected(1200 * KIB, [[0, pattern(MIB, 1).subarray(0, 300 * KIB)]]);
      t.true((await soundDisk(directory, key(path))).equals(now));
      await write(key(path), 1199 * KIB, pattern(100, 9));
      pattern(100, 9).copy(now, 1199 * KIB);
      t.true((await soundDisk(directory, key(path))).equals(now));
    });
  });
}

test('preallocated encrypted disks read as zeros, in either version', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    for (const compat of ['v2', 'v3']) {
      for (const preallocation of ['metadata', 'falloc', 'full']) {
        const filename = join(directory, `${compat}-${preallocation}`);
        const options = { 'encrypt.format': 'aes', 'encrypt.key-secret': 's', compat, preallocation };
        const target = await createImage({ filename, format: 'qcow2', size: 500 * KIB, options, secrets });
        t.true(target.readsAsZero);
        await target.write(100_000, pattern(100, 1));
        await target.close();
        const found = await soundDisk(directory, key(filename));
        t.true(found.equals(expected(500 * KIB, [[100_000, pattern(100, 1)]])), `${compat} ${preallocation}`);
      }
    }
  });
});

/** Plain, LUKS and the old AES in one chain; the top one's option string. */
async function mixedChain(directory: string): Promise<{ image: string; layers: string[]; bytes: Buffer }> {
  const layers = ['base', 'middle', 'top'].map((name) => join(directory, name));
  const [base, middle, top] = layers;
  await make(base, 'cluster_size=64k,size=1M');
  await make(middle, `${LUKS},encrypt.key-secret=s,cluster_size=4k`, base);
  await make(top, `${AES},encrypt.key-secret=t,cluster_size=16k`, middle);
  const chain = `backing.driver=qcow2,backing.file.filename=${middle},backing.encrypt.key-secret=s`;
  const image = `${key(top, 't')},${chain}`;
  await write(`driver=qcow2,file.filename=${base}`, 0, pattern(400 * KIB, 1));
  await write(key(middle), 123_456, pattern(200_000, 2));
  await write(image, 200_000, pattern(10_000, 3));
  await write(image, 350_001, pattern(77, 4));
  const bytes = expected(MIB, [
    [0, pattern(400 * KIB, 1)],
    [123_456, pattern(200_000, 2)],
    [200_000, pattern(10_000, 3)],
    [350_001, pattern(77, 4)],
  ]);
  return { image, layers, bytes };
}

test('a chain of plain and encrypted layers reads through, with a key for each', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const { image, bytes, layers } = await mixedChain(directory);
    t.true((await soundDisk(directory, image)).equals(bytes));
    const [, middle, top] = layers;
    const inside = { driver: 'qcow2', file: { driver: 'file', filename: middle }, 'encrypt.key-secret': 's' };
    const json = JSON.stringify({
      driver: 'qcow2',
      file: { filename: top },
      encrypt: { 'key-secret': 't' },
      backing: inside,
    });
    const opened = await open(`json:${json}`, { secrets });
    t.true((await readAll(opened.chain)).equals(bytes));
    await opened.close();
    const withoutKey = open(key(top, 't'), { imageOpts: true, secrets });
    await t.throwsAsync(withoutKey, { message: /Parameter 'encrypt.key-secret' is required for cipher$/ });
  });
});

test('committing an encrypted overlay into an encrypted backing file leaves the disk as it was', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const { image, bytes, layers } = await mixedChain(directory);
    await commit({ image: parseImageOpts(image), secrets });
    t.true((await soundDisk(directory, key(layers[1]))).equals(bytes));
    t.true((await soundDisk(directory, image)).equals(bytes));
  });
});

test('rebasing an encrypted overlay to no backing file leaves the disk as it was', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const { image, bytes, layers } = await mixedChain(directory);
    await rebase({ image: parseImageOpts(image), backing: null, secrets });
    t.true((await soundDisk(directory, key(layers[2], 't'))).equals(bytes));
  });
});

test('bitmaps of an encrypted image are kept, and the image stays sound', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const path = join(directory, 'x');
    await make(path, `${LUKS},encrypt.key-secret=s,size=1M`);
    const image = parseImageOpts(key(path));
    await bitmap({ image, secrets, bitmap: 'b', actions: [{ action: 'add' }] });
    await write(key(path), 100_000, pattern(300, 1));
    t.true((await soundDisk(directory, key(path))).equals(expected(MIB, [[100_000, pattern(300, 1)]])));
    const info = JSON.parse(qemuImg.expect(['info', '--output=json', path]));
    t.is(info['format-specific'].data.bitmaps.length, 1);
  });
});

test('measure counts the clusters of a LUKS header as qemu-img does', async (t) => {
  if (qemuImg.missing(t)) return;
  for (const options of [`${LUKS},encrypt.cipher-alg=aes-128,cluster_size=4k`, AES]) {
    const given = `${options},encrypt.key-secret=s`;
    const args = ['measure', '--output=json', ...OBJECTS, '-O', 'qcow2', '--size', '1G', '-o', given];
    const theirs = JSON.parse(qemuImg.expect(args));
    const pairs = Object.fromEntries(given.split(',').map((pair) => pair.split('=') as [string, string]));
    const ours = await measure({ size: 2 ** 30, outputFormat: 'qcow2', createOptions: pairs, secrets });
    t.is(ours.required, theirs.required, options);
    t.is(ours.fullyAllocated, theirs['fully-allocated'], options);
  }
});
