import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { amend, createImage, type ImageError, openTarget } from '../../lib/index.ts';
import { parseFilename } from '../../lib/sources/filename.ts';
import { Random } from '../support/model.ts';
import { withTmpDir } from '../support/tmp.ts';

const secrets = new Map([
  ['s', 'open sesame'],
  ['w', 'open barley'],
]);
const OPTIONS = { 'key-secret': 's', 'iter-time': '1', 'cipher-alg': 'aes-128' };
const SIZE = 64 * 1024;
const DISK = new Random(3).bytes(SIZE);
/** Of slots 0 and 1, and of the digest, in the header. */
const ITERATIONS = [208 + 4, 208 + 48 + 4, 164];
const LIMIT = 2 ** 27;

function nodeOf(path: string, secret = 's') {
  return { ...parseFilename(path), driver: 'luks', options: { 'key-secret': secret } };
}

async function makeImage(path: string, options: Readonly<Record<string, string>> = {}): Promise<void> {
  const given = { ...OPTIONS, ...options };
  const target = await createImage({ filename: path, format: 'luks', size: SIZE, options: given, secrets });
  await target.write(0, DISK);
  await target.close();
}

test('a wrong passphrase opens nothing for writing, and changes nothing', async (t) => {
  await withTmpDir(async (directory) => {
    const path = join(directory, 'image');
    await makeImage(path);
    const before = readFileSync(path);
    const message = /Invalid password, cannot unlock any keyslot$/;
    await t.throwsAsync(openTarget(nodeOf(path, 'w'), { secrets }), { name: 'ImageError', message });
    const options = { state: 'active', 'new-secret': 's' };
    await t.throwsAsync(amend({ image: nodeOf(path, 'w'), options, secrets }), { name: 'ImageError', message });
    t.true(readFileSync(path).equals(before));
  });
});

test('several may read and write the disk at once; its keys change only while nobody has it open', async (t) => {
  await withTmpDir(async (directory) => {
    const path = join(directory, 'image');
    await makeImage(path);
    const before = readFileSync(path);
    const [one, other] = [await openTarget(nodeOf(path), { secrets }), await openTarget(nodeOf(path), { secrets })];
    const options = { state: 'active', 'new-secret': 'w', 'iter-time': '1' };
    const change = () => amend({ image: nodeOf(path), options, secrets });
    if (process.platform === 'linux') {
      const error = await t.throwsAsync(change(), { name: 'ImageError' });
      t.is((error as ImageError).kind, 'locked');
      t.true(readFileSync(path).equals(before));
    }
    await one.close();
    await other.close();
    await change();
    await (await openTarget(nodeOf(path, 'w'), { secrets })).close();
  });
});

test('numbers of iterations that nobody would wait for are refused', async (t) => {
  await withTmpDir(async (directory) => {
    const path = join(directory, 'image');
    await makeImage(path);
    const before = readFileSync(path);
    for (const at of [ITERATIONS[0], ITERATIONS[2]]) {
      for (const count of [LIMIT, 2 ** 31, 2 ** 32 - 1]) {
        const bytes = Buffer.from(before);
        bytes.writeUInt32BE(count, at);
        writeFileSync(path, bytes);
        await t.throwsAsync(openTarget(nodeOf(path), { secrets }), {
          message: /iterations: 134217728 in all are the limit$/,
        });
      }
    }
  });
});

test('the limit is for all key slots together', async (t) => {
  await withTmpDir(async (directory) => {
    const path = join(directory, 'image');
    await makeImage(path);
    const options = { state: 'active', 'new-secret': 'w', 'iter-time': '1' };
    await amend({ image: nodeOf(path), options, secrets });
    const bytes = readFileSync(path);
    bytes.writeUInt32BE(LIMIT - bytes.readUInt32BE(ITERATIONS[2]), ITERATIONS[1]);
    writeFileSync(path, bytes);
    // The first slot opens, and the second is never tried; for another passphrase it would be one too many.
    await (await openTarget(nodeOf(path), { secrets })).close();
    await t.throwsAsync(openTarget(nodeOf(path, 'w'), { secrets }), { message: /^.*Keyslot 1 takes \d+ iterations/ });
  });
});

test('space is allocated as qemu-img allocates it', async (t) => {
  await withTmpDir(async (directory) => {
    const blocks = async (preallocation: string) => {
      const path = join(directory, preallocation);
      const options = { ...OPTIONS, preallocation };
      await (await createImage({ filename: path, format: 'luks', size: 1024 * 1024, options, secrets })).close();
      const { size, blocks: count } = statSync(path);
      t.is(size, 1052672 + 1024 * 1024);
      return (count * 512) / size;
    };
    for (const sparse of ['off', 'metadata']) t.true((await blocks(sparse)) < 0.2, sparse);
    for (const whole of ['falloc', 'full']) t.true((await blocks(whole)) >= 1, whole);
  });
});

test('a disk that is not whole sectors has its last one filled up, and keeps what is written there', async (t) => {
  await withTmpDir(async (directory) => {
    const path = join(directory, 'image');
    const target = await createImage({ filename: path, format: 'luks', size: 1000, options: OPTIONS, secrets });
    t.is(target.size, 1024);
    await target.write(1000, Buffer.alloc(24, 9));
    await target.close();
    t.is(statSync(path).size, 1052672 + 1024);
    const again = await openTarget(nodeOf(path), { secrets });
    const end = Buffer.alloc(24);
    await again.source?.read(1000, end);
    t.deepEqual(end, Buffer.alloc(24, 9));
    await again.close();
  });
});

test('iterations that would take too long to open again are not written', async (t) => {
  await withTmpDir(async (directory) => {
    const options = { ...OPTIONS, 'iter-time': '100000000' };
    const making = createImage({ filename: join(directory, 'x'), format: 'luks', size: 1, options, secrets });
    const message = /^PBKDF iterations \d+ larger than 33554432: Numerical result out of range$/;
    await t.throwsAsync(making, { name: 'ImageError', message });
  });
});
