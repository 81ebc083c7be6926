import test from 'ava';
import { diskCipher } from '../../../lib/crypto/disk-cipher.ts';
import type { DiskCipher, SectorCipherSpec } from '../../../lib/crypto/sector-cipher.ts';
import { ClusterCipher } from '../../../lib/sources/encryption/cluster-cipher.ts';
import { memoryStorage } from '../../../lib/storage/memory.ts';
import { Random } from '../../support/model.ts';

const KIB = 1024;
const SIZE = 256 * KIB;
/** Guest offsets lie so far from host offsets. */
const SHIFT = 64 * KIB;
const SPEC: SectorCipherSpec = {
  cipher: 'aes-128',
  mode: 'cbc',
  ivGenerator: 'plain64',
  ivHash: null,
  key: Buffer.alloc(16, 7),
  sectorSize: 512,
};

for (const ivs of ['host', 'guest'] as const) {
  test(`ranges of any alignment read as what was written, with IVs by the offset in the ${ivs}`, async (t) => {
    const seed = Date.now() % 1_000_000;
    t.log(`seed ${seed}`);
    const random = new Random(seed);
    const storage = memoryStorage('x');
    const cipher = new ClusterCipher(diskCipher(SPEC), ivs);
    const model = random.bytes(SIZE);
    await cipher.write(storage, { guest: SHIFT, host: 0 }, [model]);
    for (let round = 0; round < 200; round += 1) {
      const host = random.below(SIZE - 5000);
      const place = { guest: host + SHIFT, host };
      const parts = [random.bytes(random.below(2000)), random.bytes(1 + random.below(2000)), random.bytes(1)];
      await cipher.write(storage, place, parts);
      Buffer.concat(parts).copy(model, host);
      const at = random.below(SIZE - 3000);
      const found = Buffer.alloc(1 + random.below(3000), 0xee);
      await cipher.read(storage, { guest: at + SHIFT, host: at }, found);
      t.true(found.equals(model.subarray(at, at + found.length)), `round ${round}`);
    }
    // What is in the file is what the cipher makes of the whole.
    const expected = Buffer.from(model);
    await diskCipher(SPEC).encrypt(expected, ivs === 'host' ? 0 : SHIFT);
    t.true(storage.bytes().equals(expected));
    await cipher.close();
  });
}

test('what is written stays as it is, and is written piece by piece where it is long', async (t) => {
  const seen: number[] = [];
  const plain = diskCipher(SPEC);
  const watched: DiskCipher = {
    sectorSize: plain.sectorSize,
    decrypt: (bytes, offset) => plain.decrypt(bytes, offset),
    close: () => plain.close(),
    encrypt(bytes, offset) {
      seen.push(bytes.length);
      return plain.encrypt(bytes, offset);
    },
  };
  const cipher = new ClusterCipher(watched, 'guest');
  const storage = memoryStorage('x');
  const bytes = new Random(3).bytes(5 * KIB * KIB + 700);
  const before = Buffer.from(bytes);
  await cipher.write(storage, { guest: 300, host: 300 }, [bytes.subarray(0, 1000), bytes.subarray(1000)]);
  t.true(bytes.equals(before));
  t.deepEqual(seen, [2048 * KIB, 2048 * KIB, 1024 * KIB + 1024]);
  const found = Buffer.alloc(bytes.length);
  await cipher.read(storage, { guest: 300, host: 300 }, found);
  t.true(found.equals(before));
});

test('writes at once to different sectors do not disturb each other', async (t) => {
  const random = new Random(4);
  const storage = memoryStorage('x', Buffer.alloc(SIZE));
  const cipher = new ClusterCipher(diskCipher(SPEC), 'host');
  const bytes = random.bytes(SIZE);
  const writes: Promise<void>[] = [];
  for (let at = 0; at < SIZE; at += 4 * KIB) {
    const place = { guest: at, host: at };
    writes.push(cipher.write(storage, place, [bytes.subarray(at, at + 4 * KIB)]));
  }
  await Promise.all(writes);
  const found = Buffer.alloc(SIZE);
  await cipher.read(storage, { guest: 0, host: 0 }, found);
  t.true(found.equals(bytes));
});

test('a file that ends too early is an error, and not zeros', async (t) => {
  const cipher = new ClusterCipher(diskCipher(SPEC), 'host');
  const storage = memoryStorage('x', Buffer.alloc(1024));
  await t.throwsAsync(cipher.read(storage, { guest: 0, host: 0 }, Buffer.alloc(1536)), { name: 'ImageError' });
  await t.throwsAsync(cipher.read(storage, { guest: 1000, host: 1000 }, Buffer.alloc(100)), { name: 'ImageError' });
});
