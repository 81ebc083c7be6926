import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import test from 'ava';
import { build } from 'esbuild';
import { diskCipher } from '../../lib/crypto/disk-cipher.ts';
import { type CipherMode, keyBytes, type SectorCipherSpec, sectorCipher } from '../../lib/crypto/sector-cipher.ts';
import { CipherThread, SLOT_BYTES } from '../../lib/crypto/threads/cipher-thread.ts';

const directory = mkdtempSync(join(tmpdir(), 'imgpipe-threads-'));
test.after.always(() => rmSync(directory, { recursive: true }));

/** The threads' program, as the build makes it. */
const threadFile = join(directory, 'cipher-worker.cjs');
test.before(async () => {
  const entry = 'lib/crypto/threads/worker.ts';
  await build({ entryPoints: [entry], outfile: threadFile, bundle: true, platform: 'node', format: 'cjs' });
});

function specOf(mode: CipherMode): SectorCipherSpec {
  const key = randomBytes(keyBytes('aes-256', mode));
  return { cipher: 'aes-256', mode, ivGenerator: 'plain64', ivHash: null, key, sectorSize: 512 };
}

const MIB = 1024 * 1024;

for (const threads of [0, 2]) {
  test(`with ${threads} threads, many batches at a time come out as one by one`, async (t) => {
    for (const mode of ['xts', 'ecb'] as const) {
      const spec = specOf(mode);
      const cipher = diskCipher(spec, { threads, threadsAfter: MIB, threadFile });
      t.is(cipher.sectorSize, 512);
      // Some are not worth a thread, some have to be split, and some begin at an odd address.
      const plain = [512, 4096, 256 * 1024, 3 * MIB + 512, MIB, 2 * MIB, 2 * MIB].map((length) => randomBytes(length));
      const offsets = plain.map((_, index) => index * 8 * MIB);
      const batches = plain.map((bytes, index) => {
        const batch = Buffer.alloc(bytes.length + index).subarray(index);
        bytes.copy(batch);
        return batch;
      });
      for (let round = 0; round < 2; round += 1) {
        await Promise.all(batches.map((batch, index) => cipher.encrypt(batch, offsets[index])));
        for (const [index, batch] of batches.entries()) {
          const alone = Buffer.from(plain[index]);
          sectorCipher(spec).encrypt(alone, offsets[index]);
          t.true(batch.equals(alone), `${mode} ${batch.length}`);
        }
        await Promise.all(batches.map((batch, index) => cipher.decrypt(batch, offsets[index])));
        for (const [index, batch] of batches.entries()) t.true(batch.equals(plain[index]), `${mode} ${batch.length}`);
      }
      await cipher.close();
    }
  });
}

test('closing waits for what is under way, may be done twice, and leaves a cipher that works', async (t) => {
  const spec = specOf('xts');
  const cipher = diskCipher(spec, { threads: 1, threadsAfter: 0, threadFile });
  const plain = randomBytes(2 * MIB);
  const bytes = Buffer.from(plain);
  const encrypted = cipher.encrypt(bytes, 0);
  await Promise.all([cipher.close(), cipher.close()]);
  await encrypted;
  await cipher.decrypt(bytes, 0);
  t.true(bytes.equals(plain));
  await cipher.close();
});

test('a thread does its job, and has no room beyond two', async (t) => {
  const spec = specOf('xts');
  const thread = new CipherThread(spec, threadFile);
  const [first, second] = [randomBytes(SLOT_BYTES), randomBytes(4096)];
  const expected = Buffer.from(first);
  sectorCipher(spec).encrypt(expected, 512);
  const back = Buffer.from(second);
  sectorCipher(spec).decrypt(back, 1024);
  const jobs = [thread.run('encrypt', first, 512), thread.run('decrypt', second, 1024)];
  t.false(thread.hasRoom);
  await Promise.all(jobs);
  t.true(thread.hasRoom);
  t.true(first.equals(expected));
  t.true(second.equals(back));
  await thread.end();
  t.false(thread.hasRoom);
});

test('a thread that can not be had leaves the bytes as they were', async (t) => {
  const thread = new CipherThread(specOf('xts'), '/nowhere/at-all.cjs');
  const bytes = randomBytes(4096);
  const before = Buffer.from(bytes);
  await t.throwsAsync(thread.run('encrypt', bytes, 0), { any: true });
  t.true(bytes.equals(before));
  t.false(thread.hasRoom);
});

test('threads that nobody has closed do not keep a program alive', async (t) => {
  const program = `
    import { diskCipher } from '${new URL('../../lib/crypto/disk-cipher.ts', import.meta.url)}';
    const spec = { cipher: 'aes-128', mode: 'cbc', ivGenerator: 'plain64', ivHash: null, key: Buffer.alloc(16), sectorSize: 512 };
    const options = { threads: 2, threadsAfter: 0, threadFile: ${JSON.stringify(threadFile)} };
    await diskCipher(spec, options).encrypt(Buffer.alloc(1024 * 1024), 0);
    console.log('done');
  `;
  const args = ['--import=tsx', '--input-type=module', '--eval', program];
  const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 60_000 });
  t.is(stdout, 'done\n');
});

test('a cipher whose threads can not even be made does without them', async (t) => {
  const spec = specOf('xts');
  // Node wants the path of a thread's program to be absolute, or to begin with a dot.
  const cipher = diskCipher(spec, { threads: 2, threadsAfter: 0, threadFile: 'nowhere.cjs' });
  const bytes = randomBytes(2 * MIB);
  const expected = Buffer.from(bytes);
  sectorCipher(spec).encrypt(expected, 0);
  await cipher.encrypt(bytes, 0);
  t.true(bytes.equals(expected));
  await cipher.close();
});
