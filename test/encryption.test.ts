import { createReadStream, createWriteStream, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough, Readable, Writable } from 'node:stream';
import { pipeline as nodePipeline } from 'node:stream/promises';
import test from 'ava';
import { decrypt, encrypt, ImageError, pipeline } from '../lib/index.ts';
import { luks2Image, PASSPHRASE } from './support/luks2-images.ts';
import { Random } from './support/model.ts';
import { withTmpDir } from './support/tmp.ts';
import { tool } from './support/tools.ts';

const FAST = { 'iter-time': '10' };
const passphrase = 'open sesame';

function collect(): { sink: Writable; bytes: () => Buffer } {
  const chunks: Buffer[] = [];
  const sink = new Writable({
    write(chunk, _encoding, callback) {
      chunks.push(chunk);
      callback();
    },
  });
  return { sink, bytes: () => Buffer.concat(chunks) };
}

/** Bytes cut into chunks of all sizes. */
function* cut(bytes: Buffer, seed: number): Generator<Buffer> {
  const random = new Random(seed);
  for (let at = 0; at < bytes.length; ) {
    const length = 1 + random.below(random.pick([10, 1000, 100_000, 3_000_000]));
    yield bytes.subarray(at, at + length);
    at += length;
  }
}

async function encrypted(plain: Buffer, options: Record<string, string> = {}, seed = 1): Promise<Buffer> {
  const { sink, bytes } = collect();
  const stage = encrypt({ passphrase, options: { ...FAST, ...options } });
  await nodePipeline(Readable.from(cut(plain, seed)), stage as never, sink);
  return bytes();
}

async function decrypted(container: Buffer, phrase: string | Uint8Array = passphrase, seed = 2): Promise<Buffer> {
  const { sink, bytes } = collect();
  await nodePipeline(Readable.from(cut(container, seed)), decrypt({ passphrase: phrase }) as never, sink);
  return bytes();
}

const DISK = new Random(7).bytes(5 * 1024 * 1024 + 512 * 3);

test('a stream becomes a LUKS container and a disk again', async (t) => {
  t.true((await decrypted(await encrypted(DISK))).equals(DISK));
  const others = { 'cipher-alg': 'aes-128', 'cipher-mode': 'cbc', 'ivgen-alg': 'essiv', 'hash-alg': 'sha512' };
  t.true((await decrypted(await encrypted(DISK, others))).equals(DISK));
});

test('no bytes are an empty disk, and a last sector is filled up with zeros', async (t) => {
  t.is((await decrypted(await encrypted(Buffer.alloc(0)))).length, 0);
  const found = await decrypted(await encrypted(DISK.subarray(0, 1000)));
  t.true(found.equals(Buffer.concat([DISK.subarray(0, 1000), Buffer.alloc(24)])));
});

test('qemu-img and cryptsetup open what comes out', async (t) => {
  if (tool('qemu-img').missing(t) || tool('cryptsetup').missing(t)) return;
  await withTmpDir(async (directory) => {
    const [raw, luks, back] = ['raw', 'luks', 'back'].map((name) => join(directory, name));
    writeFileSync(raw, DISK);
    await pipeline(createReadStream(raw), encrypt({ passphrase, options: FAST }), createWriteStream(luks));
    const image = `driver=luks,key-secret=s,file.filename=${luks}`;
    const secret = ['--object', `secret,id=s,data=${passphrase}`];
    tool('qemu-img').expect(['convert', ...secret, '--image-opts', image, '-O', 'raw', back]);
    t.true(readFileSync(back).equals(DISK));
    tool('cryptsetup').expect(['luksOpen', '--test-passphrase', '-d', '-', luks], { input: passphrase });
  });
});

test('what qemu-img has made is decrypted', async (t) => {
  if (tool('qemu-img').missing(t)) return;
  await withTmpDir(async (directory) => {
    const [raw, luks, back] = ['raw', 'luks', 'back'].map((name) => join(directory, name));
    writeFileSync(raw, DISK);
    const secret = ['--object', `secret,id=s,data=${passphrase}`];
    const options = ['-o', 'key-secret=s,iter-time=10'];
    tool('qemu-img').expect(['convert', ...secret, '-f', 'raw', '-O', 'luks', ...options, raw, luks]);
    await pipeline(createReadStream(luks), decrypt({ passphrase }), createWriteStream(back));
    t.true(readFileSync(back).equals(DISK));
  });
});

test('LUKS2 containers are decrypted as well, and what lies behind a disk of fixed size is let pass', async (t) => {
  const disk = DISK.subarray(0, 2 * 1024 * 1024);
  t.true((await decrypted(luks2Image(disk, { sectorSize: 4096 }), PASSPHRASE)).equals(disk));
  const short = luks2Image(disk, {
    change(metadata) {
      metadata.segments[0].size = '1048576';
    },
  });
  t.true((await decrypted(short, PASSPHRASE)).equals(disk.subarray(0, 1048576)));
  const error = await t.throwsAsync(decrypted(short.subarray(0, 1_000_000), PASSPHRASE), { instanceOf: ImageError });
  t.regex(String(error?.message), /input ends before/);
});

test('a wrong passphrase is an error before any byte comes out', async (t) => {
  const container = await encrypted(DISK);
  const { sink, bytes } = collect();
  const stage = decrypt({ passphrase: 'wrong' });
  const error = await t.throwsAsync(nodePipeline(Readable.from(cut(container, 3)), stage as never, sink), {
    instanceOf: ImageError,
  });
  t.is(error?.message, 'Invalid password, cannot unlock any keyslot');
  t.is(bytes().length, 0);
});

test('what is no container, or the beginning of one, is an ImageError', async (t) => {
  const container = await encrypted(DISK.subarray(0, 4096));
  for (const bytes of [
    Buffer.alloc(0),
    Buffer.from('LUKS'),
    DISK,
    container.subarray(0, 700),
    container.subarray(0, 9000),
  ]) {
    await t.throwsAsync(decrypted(bytes), { instanceOf: ImageError });
  }
});

test('wrong options are refused, and so are secrets that are no text', async (t) => {
  await t.throwsAsync(encrypted(DISK, { 'cipher-alg': 'rot13' }), { instanceOf: ImageError });
  t.throws(() => encrypt({ passphrase, options: { 'key-secret': 'x' } }), {
    message: "Invalid parameter 'key-secret'",
  });
  const stage = encrypt({ passphrase: Uint8Array.of(0xff), options: FAST });
  const failed = new Promise<Error>((resolve) => stage.on('error', resolve));
  stage.write(Buffer.alloc(1));
  t.regex((await failed).message, /not valid UTF-8/);
});

test('a reader that goes away ends both directions', async (t) => {
  const endless = function* () {
    for (;;) yield DISK;
  };
  for (const stages of [
    [encrypt({ passphrase, options: FAST })],
    [encrypt({ passphrase, options: FAST }), decrypt({ passphrase })],
  ]) {
    const out = new PassThrough();
    const ended = nodePipeline([Readable.from(endless()), ...(stages as never[]), out]);
    let seen = 0;
    out.on('data', (chunk) => {
      seen += chunk.length;
      if (seen > 8_000_000) out.destroy();
    });
    await t.throwsAsync(ended);
    t.true(stages.every((stage) => stage.destroyed));
  }
});
