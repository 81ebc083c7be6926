import { randomBytes } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { open } from '../../lib/images.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';

/** Each cipher, mode, IV generator and kind of hash at least once; QEMU takes more than a second for each. */
const CONTAINERS = [
  'serpent-256 xts plain64',
  'twofish-192 xts plain',
  'cast5-128 cbc essiv:md5',
  'cast5-128 ctr plain',
  'twofish-128 ecb plain64',
  'aes-192 xts essiv:sha256',
];

for (const words of CONTAINERS) {
  test.serial(`what QEMU encrypts with ${words} is read as it was`, async (t) => {
    const qemuImg = tool('qemu-img');
    if (qemuImg.missing(t)) return;
    const [cipher, mode, iv] = words.split(' ');
    const [generator, hash] = iv.split(':');
    let options = `key-secret=key,iter-time=20,cipher-alg=${cipher},cipher-mode=${mode},ivgen-alg=${generator}`;
    if (hash !== undefined) options += `,ivgen-hash-alg=${hash}`;
    await withTmpDir(async (directory) => {
      const [raw, container] = [join(directory, 'raw'), join(directory, 'container')];
      const plain = randomBytes(300 * 1024);
      writeFileSync(raw, plain);
      const secret = ['--object', 'secret,id=key,data=passphrase'];
      const args = ['convert', ...secret, '-f', 'raw', '-O', 'luks', '-o', options, raw, container];
      let made = qemuImg.run(args);
      // On a busy machine QEMU may fail to measure its own speed.
      for (let tries = 0; made.stderr.includes('accurate CPU usage') && tries < 5; tries += 1) made = qemuImg.run(args);
      t.is(made.status, 0, made.stderr);
      const name = `driver=luks,key-secret=key,file.filename=${container}`;
      const image = await open(name, { imageOpts: true, secrets: new Map([['key', 'passphrase']]) });
      const bytes = Buffer.alloc(plain.length);
      await image.read(0, bytes);
      await image.close();
      t.true(bytes.equals(plain));
    });
  });
}
