import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { ImageError } from '../../../lib/core/errors.ts';
import { luks2Info, readLuks2Header } from '../../../lib/sources/encryption/luks2.ts';
import { unlockLuks2, volumeCipher } from '../../../lib/sources/encryption/luks2-unlock.ts';
import { memoryStorage } from '../../../lib/storage/memory.ts';
import { luks2Image, type Metadata, PASSPHRASE, PAYLOAD, SECONDARY, writeHeader } from '../../support/luks2-images.ts';
import { withTmpDir } from '../../support/tmp.ts';
import { tool } from '../../support/tools.ts';

const DISK = randomBytes(64 * 1024);

async function contents(image: Buffer, passphrase = PASSPHRASE): Promise<Buffer> {
  const storage = memoryStorage('image', image);
  const header = await readLuks2Header(storage);
  const { masterKey } = await unlockLuks2(storage, header, Buffer.from(passphrase));
  const cipher = volumeCipher(header, masterKey);
  const disk = Buffer.alloc(header.payloadLength);
  await storage.read(header.payloadOffset, disk);
  await cipher.decrypt(disk, 0);
  await cipher.close();
  return disk;
}

for (const sectorSize of [512, 1024, 2048, 4096]) {
  test(`a container with sectors of ${sectorSize} bytes is read`, async (t) => {
    t.deepEqual(await contents(luks2Image(DISK, { sectorSize })), DISK);
  });
}

test('a segment of fixed size ends where it says', async (t) => {
  const change = (metadata: Metadata) => {
    metadata.segments[0].size = '8192';
  };
  t.deepEqual(await contents(luks2Image(DISK, { change })), DISK.subarray(0, 8192));
});

test('an IV tweak is added to the number of each sector', async (t) => {
  // Sector n of the disk is encrypted as sector n + 8 of another one.
  const whole = luks2Image(DISK);
  const change = (metadata: Metadata) => {
    Object.assign(metadata.segments[0], { offset: String(PAYLOAD + 4096), iv_tweak: '8' });
  };
  const json = JSON.parse(whole.toString('latin1', 4096, whole.indexOf(0, 4096)));
  change(json);
  writeHeader(whole, 0, JSON.stringify(json), 2);
  t.deepEqual(await contents(whole), DISK.subarray(4096));
});

test('a wrong passphrase is refused', async (t) => {
  const error = await t.throwsAsync(contents(luks2Image(DISK), 'wrong'), { instanceOf: ImageError });
  t.is(error?.message, 'Invalid password, cannot unlock any keyslot');
});

test('of two copies of the header the newer sound one counts', async (t) => {
  const image = luks2Image(DISK);
  const json = image.toString('latin1', 4096, image.indexOf(0, 4096));
  const changed = JSON.parse(json);
  changed.segments[0].size = '4096';
  writeHeader(image, SECONDARY, JSON.stringify(changed), 2);
  t.is((await contents(image)).length, 4096);
  // Cut off while it was written: the older one is still there.
  image[SECONDARY + 5000] ^= 1;
  t.is((await contents(image)).length, DISK.length);
  image[5000] ^= 1;
  await t.throwsAsync(contents(image), { instanceOf: ImageError, message: /wrong checksum/ });
});

test('a header whose first copy is gone is found by its second one', async (t) => {
  const image = luks2Image(DISK);
  image.fill(0, 8, 4096);
  t.deepEqual(await contents(image), DISK);
});

test('key slots are tried by priority, and those of priority 0 not at all', async (t) => {
  const image = luks2Image(DISK, {
    change(metadata) {
      metadata.keyslots[0].priority = 0;
    },
  });
  await t.throwsAsync(contents(image), { message: /Invalid password/ });
  const [first, second] = [3, 7].map((id) => {
    const copy = luks2Image(DISK, {
      change(metadata) {
        metadata.keyslots[id] = { ...metadata.keyslots[0], priority: 2 };
        metadata.digests[0].keyslots.push(String(id));
      },
    });
    return copy;
  });
  for (const [image, id] of [[first, 3] as const, [second, 7] as const]) {
    const storage = memoryStorage('image', image);
    const header = await readLuks2Header(storage);
    const { slot } = await unlockLuks2(storage, header, Buffer.from(PASSPHRASE));
    t.is(slot, id);
    const { slots } = luks2Info(header) as { slots: { active: boolean }[] };
    t.is(slots.length, id + 1);
    t.deepEqual(slots.filter(({ active }) => active).length, 2);
  }
});

const REFUSED: Record<string, { change: (metadata: Metadata) => void; message: RegExp }> = {
  'several segments': {
    change: ({ segments }) => {
      segments[1] = segments[0];
    },
    message: /2 segments/,
  },
  'a segment that is not encrypted': {
    change: ({ segments }) => {
      segments[0].type = 'linear';
    },
    message: /type 'linear'/,
  },
  'integrity protection': {
    change: ({ segments }) => {
      segments[0].integrity = { type: 'hmac(sha256)', journal_encryption: 'none', journal_integrity: 'none' };
    },
    message: /integrity/,
  },
  'a re-encryption under way': {
    change: ({ config }) => {
      config.requirements = { mandatory: ['online-reencrypt-v2'] };
    },
    message: /'online-reencrypt-v2'/,
  },
  'a payload elsewhere': {
    change: ({ segments }) => {
      segments[0].offset = '0';
    },
    message: /elsewhere/,
  },
  'too much memory for Argon2': {
    change: ({ keyslots }) => {
      keyslots[0].kdf = { type: 'argon2id', time: 1, memory: 2 ** 32 - 1, cpus: 4, salt: 'AAAAAAAAAAAAAAAAAAAAAA==' };
    },
    message: /work|memory/,
  },
  'too many passes of Argon2': {
    change: ({ keyslots }) => {
      keyslots[0].kdf = { type: 'argon2i', time: 2 ** 32 - 1, memory: 32, cpus: 1, salt: 'AAAAAAAAAAAAAAAAAAAAAA==' };
    },
    message: /work|long/,
  },
  'too many iterations of PBKDF2': {
    change: ({ keyslots }) => {
      keyslots[0].kdf.iterations = 2 ** 32 - 1;
    },
    message: /work/,
  },
  'too many iterations in the digest': {
    change: ({ digests }) => {
      digests[0].iterations = 2 ** 31;
    },
    message: /work/,
  },
  'another key derivation': {
    change: ({ keyslots }) => {
      keyslots[0].kdf.type = 'scrypt';
    },
    message: /'scrypt'/,
  },
  'an unknown cipher': {
    change: ({ segments }) => {
      segments[0].encryption = 'camellia-xts-plain64';
    },
    message: /not supported/,
  },
  'a digest that no key slot has': {
    change: ({ digests }) => {
      digests[0].keyslots = ['5'];
    },
    message: /Invalid password/,
  },
};

for (const [what, { change, message }] of Object.entries(REFUSED)) {
  test(`${what}: one clear error`, async (t) => {
    await t.throwsAsync(contents(luks2Image(DISK, { change })), { instanceOf: ImageError, message });
  });
}

const FORMATS: Record<string, string[]> = {
  'argon2id, 4096-byte sectors': ['--pbkdf=argon2id', '--pbkdf-memory=64', '--sector-size=4096'],
  'argon2i, four lanes': ['--pbkdf=argon2i', '--pbkdf-memory=256', '--pbkdf-parallel=4'],
  'pbkdf2 of sha512, 512-byte sectors': ['--pbkdf=pbkdf2', '--hash=sha512', '--sector-size=512'],
  'aes-cbc-essiv': ['--pbkdf=pbkdf2', '--cipher=aes-cbc-essiv:sha256', '--key-size=256'],
  'a larger header': ['--pbkdf=pbkdf2', '--luks2-metadata-size=64k', '--luks2-keyslots-size=1m'],
};

for (const [what, options] of Object.entries(FORMATS)) {
  test(`a container of cryptsetup is unlocked: ${what}`, async (t) => {
    const cryptsetup = tool('cryptsetup');
    if (cryptsetup.missing(t)) return;
    await withTmpDir(async (directory) => {
      const path = join(directory, 'image');
      writeFileSync(path, Buffer.alloc(20 * 1024 * 1024));
      const cost = ['--pbkdf-force-iterations', options.includes('--pbkdf=pbkdf2') ? '1000' : '4'];
      const args = ['luksFormat', '-q', '--type', 'luks2', ...options, ...cost, path, '-'];
      cryptsetup.expect(args, { input: PASSPHRASE });
      const storage = memoryStorage(path, readFileSync(path));
      const header = await readLuks2Header(storage);
      const { masterKey } = await unlockLuks2(storage, header, Buffer.from(PASSPHRASE));
      const dump = cryptsetup.expect(['luksDump', '-q', '--dump-volume-key', '-d', '-', path], { input: PASSPHRASE });
      const [, hex] = /MK dump:\s*([0-9a-f\s]+)/.exec(dump) as RegExpExecArray;
      t.is(masterKey.toString('hex'), hex.replace(/\s/g, ''));
      t.true(dump.includes(header.uuid));
      await t.throwsAsync(unlockLuks2(storage, header, Buffer.from('wrong')), { message: /Invalid password/ });
    });
  });
}

for (const sectorSize of [512, 4096]) {
  test(`what cryptsetup has encrypted in place comes out: sectors of ${sectorSize} bytes`, async (t) => {
    const cryptsetup = tool('cryptsetup');
    if (cryptsetup.missing(t)) return;
    await withTmpDir(async (directory) => {
      const path = join(directory, 'image');
      const disk = randomBytes(4 * 1024 * 1024);
      writeFileSync(path, Buffer.concat([disk, Buffer.alloc(32 * 1024 * 1024)]));
      const cost = ['--pbkdf=pbkdf2', '--pbkdf-force-iterations=1000', `--sector-size=${sectorSize}`];
      const args = [
        'reencrypt',
        '-q',
        '--encrypt',
        '--type=luks2',
        ...cost,
        '--reduce-device-size=32M',
        path,
        '-d',
        '-',
      ];
      cryptsetup.expect(args, { input: PASSPHRASE });
      const found = await contents(readFileSync(path));
      t.true(found.subarray(0, disk.length).equals(disk));
    });
  });
}

test('a container whose key slots are all erased is described, and opens no more', async (t) => {
  const image = luks2Image(DISK, {
    change(metadata) {
      metadata.keyslots = {};
      metadata.digests[0].keyslots = [];
    },
  });
  const header = await readLuks2Header(memoryStorage('image', image));
  const info = luks2Info(header);
  t.deepEqual(info.slots, []);
  t.is(info['cipher-alg'], 'aes');
  t.is(info['cipher-mode'], 'xts');
  await t.throwsAsync(contents(image), { instanceOf: ImageError, message: /Invalid password/ });
});

test('what info shows of the cipher are the words of the header', async (t) => {
  const told = async (encryption: string) => {
    const image = luks2Image(DISK, {
      change(metadata) {
        metadata.segments[0].encryption = encryption;
      },
    });
    const info = luks2Info(await readLuks2Header(memoryStorage('image', image)));
    return ['cipher-alg', 'cipher-mode', 'ivgen-alg', 'ivgen-hash-alg'].map((key) => info[key]);
  };
  t.deepEqual(await told('aes-xts-plain64'), ['aes-128', 'xts', 'plain64', undefined]);
  t.deepEqual(await told('aes-cbc-essiv:sha256'), ['aes-256', 'cbc', 'essiv', 'sha256']);
  t.deepEqual(await told('camellia-cbc-plain'), ['camellia-256', 'cbc', 'plain', undefined]);
  t.deepEqual(await told('null'), ['null-256', '', '', undefined]);
});
