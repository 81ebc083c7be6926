import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { openTarget } from '../../lib/formats/open-target.ts';
import { amend, check, createSnapshot, resize } from '../../lib/index.ts';
import { parseImageOpts } from '../../lib/sources/filename.ts';
import { open } from '../sources/oracle.ts';
import { pattern } from '../support/model.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { AES, expected, KIB, key, LUKS, MIB, make, OBJECTS, secrets, soundDisk, write } from './encrypted-disks.ts';

const qemuImg = tool('qemu-img');
const qemuIo = tool('qemu-io');

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
