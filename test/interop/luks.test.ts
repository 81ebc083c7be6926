import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { convert, createImage, openTarget, resize } from '../../lib/index.ts';
import { parseFilename } from '../../lib/sources/filename.ts';
import { Random } from '../support/model.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';

const qemuImg = tool('qemu-img');
const cryptsetup = tool('cryptsetup');

const PASSPHRASE = 'correct horse, battery staple';
const secrets = new Map([['s', PASSPHRASE]]);
// A comma in the data is written twice.
const OBJECT = ['--object', `secret,id=s,data=${PASSPHRASE.replace(',', ',,')}`];
const KIB = 1024;
const SIZE = 300 * KIB;
const DISK = new Random(5).bytes(SIZE);

/** Of each cipher, mode, IV generator and hash at least one. */
const CONTAINERS: readonly Readonly<Record<string, string>>[] = [
  {},
  { 'cipher-alg': 'aes-192', 'hash-alg': 'sha1' },
  { 'cipher-alg': 'aes-128', 'cipher-mode': 'cbc', 'ivgen-alg': 'essiv', 'hash-alg': 'sha512' },
  { 'cipher-mode': 'cbc', 'ivgen-alg': 'plain', 'hash-alg': 'ripemd160' },
  { 'cipher-mode': 'ctr', 'hash-alg': 'sha224' },
  { 'cipher-mode': 'ecb', 'hash-alg': 'sha384' },
  { 'ivgen-alg': 'plain', 'ivgen-hash-alg': 'sha256', 'hash-alg': 'md5' },
  { 'cipher-alg': 'cast5-128', 'cipher-mode': 'ctr', 'ivgen-alg': 'essiv', 'ivgen-hash-alg': 'md5' },
  { 'cipher-alg': 'serpent-128', 'cipher-mode': 'cbc', 'ivgen-alg': 'essiv' },
  { 'cipher-alg': 'twofish-256' },
];

function titleOf(options: Readonly<Record<string, string>>): string {
  const pairs = Object.entries(options).map(([key, value]) => `${key}=${value}`);
  return pairs.length === 0 ? 'the defaults' : pairs.join(' ');
}

function nodeOf(path: string) {
  return { ...parseFilename(path), driver: 'luks', options: { 'key-secret': 's' } };
}

function assertSameAs(t: ExecutionContext, path: string, raw: string): void {
  const image = `driver=luks,key-secret=s,file.filename=${path}`;
  const { status, text, stderr } = qemuImg.run([
    ...['compare', ...OBJECT, '--image-opts'],
    `driver=raw,file.filename=${raw}`,
    image,
  ]);
  t.is(status, 0, text + stderr);
}

for (const options of CONTAINERS) {
  test(`${titleOf(options)}: qemu-img reads what we write, and we read what it writes`, async (t) => {
    if (qemuImg.missing(t)) return;
    await withTmpDir(async (directory) => {
      const at = (name: string) => join(directory, name);
      writeFileSync(at('raw'), DISK);
      const createOptions = { 'key-secret': 's', 'iter-time': '10', ...options };
      const inputs = [{ filename: at('raw'), format: 'raw' }];
      await convert({ inputs, output: { filename: at('ours') }, outputFormat: 'luks', createOptions, secrets });
      assertSameAs(t, at('ours'), at('raw'));
      const pairs = Object.entries(createOptions).map(([key, value]) => `${key}=${value}`);
      qemuImg.expect(['convert', ...OBJECT, '-f', 'raw', '-O', 'luks', '-o', pairs.join(), at('raw'), at('theirs')]);
      await convert({ inputs: [nodeOf(at('theirs'))], output: { filename: at('back') }, outputFormat: 'raw', secrets });
      t.true(readFileSync(at('back')).equals(DISK));
    });
  });
}

test('writes of any place and length onto a container of qemu-img are what it reads', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const [path, raw] = [join(directory, 'image'), join(directory, 'raw')];
    writeFileSync(raw, DISK);
    const made = 'key-secret=s,iter-time=10';
    qemuImg.expect(['convert', ...OBJECT, '-f', 'raw', '-O', 'luks', '-o', made, raw, path]);
    const target = await openTarget(nodeOf(path), { secrets });
    const random = new Random(6);
    const model = Buffer.from(DISK);
    for (let round = 0; round < 50; round += 1) {
      const offset = random.below(SIZE - 1);
      const length = Math.min(SIZE - offset, 1 + random.below(round % 5 === 0 ? 50_000 : 1500));
      if (round % 7 === 0) {
        await target.zero(offset, length);
        model.fill(0, offset, offset + length);
      } else {
        const bytes = random.bytes(length);
        const before = Buffer.from(bytes);
        await target.write(offset, bytes);
        t.true(bytes.equals(before), 'the caller keeps its bytes');
        bytes.copy(model, offset);
      }
    }
    await target.close();
    writeFileSync(raw, model);
    assertSameAs(t, path, raw);
  });
});

test('containers are resized to the byte, as qemu-img does, and keep what is in them', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const [path, raw] = [join(directory, 'image'), join(directory, 'raw')];
    const options = { 'key-secret': 's', 'iter-time': '10', 'cipher-alg': 'aes-128' };
    const target = await createImage({ filename: path, format: 'luks', size: SIZE, options, secrets });
    await target.write(0, DISK);
    await target.close();
    const payload = readFileSync(path).length - SIZE;
    for (const size of [SIZE + 100_000, 1500, 70_001]) {
      const image = { ...parseFilename(path), options: { 'key-secret': 's' } };
      await resize({ image, size, shrink: true, secrets });
      t.is(readFileSync(path).length, payload + size);
      const info = JSON.parse(qemuImg.expect(['info', '--output=json', path]));
      t.is(info['virtual-size'], Math.ceil(size / 512) * 512);
    }
    qemuImg.expect([
      ...['convert', ...OBJECT, '--image-opts', '-O', 'raw'],
      `driver=luks,key-secret=s,file.filename=${path}`,
      raw,
    ]);
    // Of the sector that the end cut through, nothing is left.
    t.true(readFileSync(raw).subarray(0, 1024).equals(DISK.subarray(0, 1024)));
  });
});

/** What cryptsetup names its containers' ciphers by, and the bits of their keys. */
const CRYPTSETUP: readonly (readonly [cipher: string, bits: number, hash: string])[] = [
  ['aes-xts-plain64', 512, 'sha256'],
  ['aes-xts-plain64', 256, 'sha1'],
  ['aes-cbc-essiv:sha256', 128, 'sha512'],
  ['aes-cbc-plain', 192, 'ripemd160'],
  ['serpent-xts-plain64', 512, 'sha256'],
  ['twofish-cbc-plain64', 256, 'sha256'],
];

for (const [cipher, bits, hash] of CRYPTSETUP) {
  test(`a container that cryptsetup made with ${cipher}, ${bits} bits and ${hash} opens`, async (t) => {
    if (cryptsetup.missing(t)) return;
    await withTmpDir(async (directory) => {
      const path = join(directory, 'image');
      writeFileSync(path, Buffer.alloc(4 * 1024 * KIB));
      const cost = ['--pbkdf=pbkdf2', '--pbkdf-force-iterations=1000'];
      const how = ['--type=luks1', ...cost, `--cipher=${cipher}`, `--key-size=${bits}`, `--hash=${hash}`];
      const made = cryptsetup.run(['luksFormat', '-q', ...how, path, '-'], { input: PASSPHRASE });
      if (made.status !== 0) {
        // What it has no cipher for itself, it asks the kernel for.
        t.regex(made.stderr, /device-mapper|dm-crypt|kernel/);
        return void t.log(`cryptsetup can't make it here: ${made.stderr}`);
      }
      const target = await openTarget(nodeOf(path), { secrets });
      t.is(target.size, 4 * 1024 * KIB - payloadOf(path));
      await target.write(1000, DISK);
      await target.close();
      const back = Buffer.alloc(DISK.length);
      const again = await openTarget(nodeOf(path), { secrets });
      await again.source?.read(1000, back);
      await again.close();
      t.true(back.equals(DISK));
    });
  });
}

function payloadOf(path: string): number {
  const [, sectors] = /Payload offset:\s*(\d+)/.exec(cryptsetup.expect(['luksDump', path])) as RegExpExecArray;
  return Number(sectors) * 512;
}

test('cryptsetup describes our containers, and takes their passphrase', async (t) => {
  if (cryptsetup.missing(t)) return;
  await withTmpDir(async (directory) => {
    const path = join(directory, 'image');
    const options = { 'key-secret': 's', 'iter-time': '10', 'cipher-alg': 'aes-256', 'hash-alg': 'sha512' };
    await (await createImage({ filename: path, format: 'luks', size: SIZE, options, secrets })).close();
    const dump = cryptsetup.expect(['luksDump', path]);
    t.regex(dump, /Cipher mode:\s+xts-plain64\n/);
    t.regex(dump, /Hash spec:\s+sha512\n/);
    t.regex(dump, /Key Slot 0: ENABLED\n/);
    const test = ['luksOpen', '--test-passphrase', '--key-file=-', path, 'x'];
    t.is(cryptsetup.run(test, { input: PASSPHRASE }).status, 0);
    t.is(cryptsetup.run(test, { input: 'something else' }).status, 2);
  });
});
