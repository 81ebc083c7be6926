import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { createImage } from '../../lib/formats/create.ts';
import { openTarget } from '../../lib/formats/open-target.ts';
import {
  amend,
  applySnapshot,
  bitmap,
  check,
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

const qemuImg = tool('qemu-img');
const qemuIo = tool('qemu-io');
const KIB = 1024;
const MIB = 1024 * KIB;
const secrets = new Map([
  ['s', 'correct horse'],
  ['t', 'battery staple'],
]);
const OBJECTS = Array.from(secrets, ([id, data]) => ['--object', `secret,id=${id},data=${data}`]).flat();
const LUKS = 'encrypt.format=luks,encrypt.iter-time=10';
const AES = 'encrypt.format=aes';

/** An image as its option string says it. */
const key = (path: string, id = 's') => `driver=qcow2,file.filename=${path},encrypt.key-secret=${id}`;

/** Made by us, since qemu-img spends seconds on each key: that we read what it makes is seen elsewhere. */
async function make(filename: string, options: string, backing?: string): Promise<void> {
  const pairs = Object.fromEntries(options.split(',').map((pair) => pair.split('=') as [string, string]));
  const over = backing === undefined ? undefined : { filename: backing, format: 'qcow2', unsafe: true };
  const target = await createImage({
    filename,
    format: 'qcow2',
    options: { size: '1M', ...pairs },
    backing: over,
    secrets,
  });
  await target.close();
}

async function write(image: string, offset: number, bytes: Buffer): Promise<void> {
  const target = await openTarget(parseImageOpts(image), { secrets });
  await target.write(offset, bytes);
  await target.close();
}

async function disk(image: string): Promise<Buffer> {
  const opened = await open(image, { imageOpts: true, secrets });
  try {
    return await readAll(opened.chain);
  } finally {
    await opened.close();
  }
}

/** The disk, which we and qemu-img must read alike, in an image that qemu-img finds sound. */
async function soundDisk(directory: string, image: string): Promise<Buffer> {
  const target = join(directory, 'oracle.raw');
  qemuImg.expect(['convert', ...OBJECTS, '--image-opts', '-O', 'raw', image, target]);
  qemuImg.expect(['check', ...OBJECTS, '--image-opts', image]);
  const found = await disk(image);
  if (!found.equals(readFileSync(target))) throw new Error('qemu-img reads something else');
  return found;
}

/** A disk with these bytes at these offsets, and zeros elsewhere. */
function expected(size: number, writes: readonly (readonly [number, Buffer])[]): Buffer {
  const bytes = Buffer.alloc(size);
  for (const [offset, each] of writes) each.copy(bytes, offset);
  return bytes;
}

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

test('an amended key slot opens here and there, and one that was erased opens nowhere', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const path = join(directory, 'x');
    await make(path, `${LUKS},encrypt.key-secret=s,size=1M`);
    await write(key(path), 0, pattern(MIB, 1));
    const added = { 'encrypt.state': 'active', 'encrypt.new-secret': 't', 'encrypt.iter-time': '10' };
    await amend({ image: parseImageOpts(key(path)), options: { ...added, lazy_refcounts: 'on' }, secrets });
    t.true((await soundDisk(directory, key(path, 't'))).equals(pattern(MIB, 1)));
    const erased = { 'encrypt.state': 'inactive', 'encrypt.old-secret': 's' };
    await amend({ image: parseImageOpts(key(path)), options: erased, secrets });
    t.true((await soundDisk(directory, key(path, 't'))).equals(pattern(MIB, 1)));
    const message = /Invalid password, cannot unlock any keyslot$/;
    await t.throwsAsync(open(key(path), { imageOpts: true, secrets }), { message });
    t.is(qemuImg.run(['check', ...OBJECTS, '--image-opts', key(path)]).status, 1);
    const last = amend({
      image: parseImageOpts(key(path, 't')),
      options: { 'encrypt.state': 'inactive', 'encrypt.old-secret': 't' },
      secrets,
    });
    await t.throwsAsync(last, { message: /refusing operation/ });
    await amend({ image: parseImageOpts(key(path, 't')), options: { compat: '0.10' }, secrets });
    t.true((await soundDisk(directory, key(path, 't'))).equals(pattern(MIB, 1)));
  });
});

test('a wrong key lets no byte be written, not even where the dirty bit asks for repairs', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const path = join(directory, 'x');
    await make(path, `${LUKS},encrypt.key-secret=s,size=1M`);
    await write(key(path), 0, pattern(MIB, 1));
    const bytes = readFileSync(path);
    // "incompatible features", bit 0.
    bytes[79] |= 1;
    writeFileSync(path, bytes);
    const image = parseImageOpts(key(path, 't'));
    const message = /Invalid password/;
    await t.throwsAsync(openTarget(image, { secrets }), { message });
    await t.throwsAsync(check({ image, secrets, repair: 'all' }), { message });
    await t.throwsAsync(resize({ image, secrets, size: 2 * MIB }), { message });
    await t.throwsAsync(createSnapshot('x', { image, secrets }), { message });
    const options = { 'encrypt.state': 'active', 'encrypt.new-secret': 't' };
    await t.throwsAsync(amend({ image, secrets, options }), { message });
    t.true(readFileSync(path).equals(bytes));
  });
});

test('clusters that QEMU compressed in an encrypted image are read, and copied where they are written to', async (t) => {
  if (qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    for (const options of [LUKS, AES]) {
      const path = join(directory, 'x');
      await make(path, `${options},encrypt.key-secret=s,size=1M`);
      qemuIo.expect([...OBJECTS, '--image-opts', '-c', 'write -c -P 5 64k 64k', key(path)]);
      await write(key(path), 70_000, pattern(100, 1));
      const now = expected(MIB, [
        [64 * KIB, Buffer.alloc(64 * KIB, 5)],
        [70_000, pattern(100, 1)],
      ]);
      t.true((await soundDisk(directory, key(path))).equals(now), options);
      const target = await openTarget(parseImageOpts(key(path)), { secrets });
      t.is(target.compressor, undefined);
      await t.throwsAsync(target.writeCompressed!(0, 64 * KIB, Buffer.alloc(10)), {
        message: /not supported at the same time/,
      });
      await target.close();
    }
  });
});

test('encrypted clusters lie in an external data file as QEMU expects them', async (t) => {
  if (qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const raw = 'data_file_raw=on';
    for (const [name, options] of Object.entries({ luks: LUKS, aes: AES, raw: `${LUKS},${raw}` })) {
      const path = join(directory, name);
      await make(path, `${options},encrypt.key-secret=s,data_file=${path}.data`);
      await write(key(path), 70_001, pattern(100_000, 1));
      qemuIo.expect([...OBJECTS, '--image-opts', '-c', 'write -P 5 150k 9k', '-c', 'write -z 0 80k', key(path)]);
      const now = expected(MIB, [
        [70_001, pattern(100_000, 1)],
        [150 * KIB, Buffer.alloc(9 * KIB, 5)],
        [0, Buffer.alloc(80 * KIB)],
      ]);
      t.true((await soundDisk(directory, key(path))).equals(now), name);
      t.false(readFileSync(`${path}.data`).includes(pattern(64, 1)));
    }
  });
});

test('the old AES counts sectors beyond 2 TiB as QEMU does', async (t) => {
  if (qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const path = join(directory, 'x');
    await make(path, `${AES},encrypt.key-secret=s,cluster_size=2M,size=3T`);
    const far = 2.5 * 2 ** 40;
    await write(key(path), far + 300, pattern(700, 1));
    qemuIo.expect([...OBJECTS, '--image-opts', '-c', `write -P 7 ${far + 5000} 1000`, key(path)]);
    const opened = await open(key(path), { imageOpts: true, secrets });
    const found = Buffer.alloc(8192);
    await opened.source.read(far, found);
    await opened.close();
    t.true(
      found.equals(
        expected(8192, [
          [300, pattern(700, 1)],
          [5000, Buffer.alloc(1000, 7)],
        ]),
      ),
    );
    const back = qemuIo.expect([...OBJECTS, '--image-opts', '-c', `read -P 7 ${far + 5000} 1000`, key(path)]);
    t.notRegex(back, /failed/);
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
