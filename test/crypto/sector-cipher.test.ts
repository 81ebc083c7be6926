import { createCipheriv, createHash } from 'node:crypto';
import test from 'ava';
import fc from 'fast-check';
import { ImageError } from '../../lib/core/errors.ts';
import {
  type CipherMode,
  type CipherName,
  type IvGenerator,
  keyBytes,
  type SectorCipherSpec,
  sectorCipher,
} from '../../lib/crypto/sector-cipher.ts';

/** The IV of a 16-byte block that dm-crypt's documentation describes, made the simplest way. */
function plainIv(generator: IvGenerator, sector: number, key: Uint8Array): Buffer {
  const iv = Buffer.alloc(16);
  if (generator === 'plain') iv.writeUInt32LE(sector % 2 ** 32);
  else if (generator === 'plain64be') iv.writeBigUInt64BE(BigInt(sector), 8);
  else iv.writeBigUInt64LE(BigInt(sector));
  if (generator !== 'essiv') return iv;
  const hashed = createHash('sha256').update(key).digest();
  return createCipheriv('aes-256-ecb', hashed, null).setAutoPadding(false).update(iv);
}

/** The same as `sectorCipher`, by OpenSSL's own modes, a sector at a time. */
function byOpenssl(spec: SectorCipherSpec, plain: Buffer, offset: number): Buffer {
  const parts: Buffer[] = [];
  for (let at = 0; at < plain.length; at += spec.sectorSize) {
    const iv = plainIv(spec.ivGenerator ?? 'plain', (offset + at) / 512, spec.key);
    const cipher = createCipheriv(`${spec.cipher}-${spec.mode}`, spec.key, spec.mode === 'ecb' ? null : iv);
    parts.push(cipher.setAutoPadding(false).update(plain.subarray(at, at + spec.sectorSize)));
  }
  return Buffer.concat(parts);
}

const specs = fc.record({
  cipher: fc.constantFrom<CipherName>('aes-128', 'aes-192', 'aes-256'),
  mode: fc.constantFrom<CipherMode>('ecb', 'cbc', 'xts', 'ctr'),
  ivGenerator: fc.constantFrom<IvGenerator>('plain', 'plain64', 'plain64be', 'essiv'),
  ivHash: fc.constant('sha256' as const),
  sectorSize: fc.constantFrom(512, 1024, 2048, 4096),
});
const seeds = fc.integer({ min: 0, max: 2 ** 30 });

/** Bytes that only the seed knows. */
function noise(seed: number, length: number): Buffer {
  const key = createHash('md5').update(String(seed)).digest();
  return createCipheriv('aes-128-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(length));
}

test('every mode and IV generator of AES says what OpenSSL says sector by sector', (t) => {
  const property = fc.property(
    specs,
    seeds,
    fc.integer({ min: 0, max: 40 }),
    fc.integer({ min: 0, max: 2 ** 38 }),
    fc.integer({ min: 0, max: 3 }),
    (options, seed, sectors, first, shift) => {
      // OpenSSL has no XTS with keys of 192 bits.
      if (options.mode === 'xts' && options.cipher === 'aes-192') return;
      const spec: SectorCipherSpec = { ...options, key: noise(seed, keyBytes(options.cipher, options.mode)) };
      const plain = noise(seed + 1, sectors * spec.sectorSize);
      const offset = first * spec.sectorSize;
      // Batches need not begin at an aligned address.
      const bytes = Buffer.alloc(plain.length + shift).subarray(shift);
      plain.copy(bytes);
      const cipher = sectorCipher(spec);
      cipher.encrypt(bytes, offset);
      t.true(bytes.equals(byOpenssl(spec, plain, offset)), 'encrypted');
      cipher.decrypt(bytes, offset);
      t.true(bytes.equals(plain), 'decrypted');
    },
  );
  fc.assert(property, { numRuns: 300 });
});

test('a batch longer than a piece is encrypted as its sectors are', (t) => {
  for (const mode of ['ecb', 'cbc', 'xts', 'ctr'] as const) {
    for (const sectorSize of [512, 4096]) {
      const key = noise(7, keyBytes('aes-256', mode));
      const spec = { cipher: 'aes-256', mode, ivGenerator: 'plain64', ivHash: null, key, sectorSize } as const;
      const plain = noise(8, 300 * 1024);
      const bytes = Buffer.from(plain);
      const offset = 0xffff_fff0 * 4096;
      sectorCipher(spec).encrypt(bytes, offset);
      t.true(bytes.equals(byOpenssl(spec, plain, offset)), `${mode} ${sectorSize}`);
      sectorCipher(spec).decrypt(bytes, offset);
      t.true(bytes.equals(plain));
    }
  }
});

test('counters that run over 32 bits carry', (t) => {
  // The big-endian number of the sector is the counter's low half.
  const spec: SectorCipherSpec = {
    cipher: 'aes-128',
    mode: 'ctr',
    ivGenerator: 'plain64be',
    ivHash: null,
    key: noise(3, 16),
    sectorSize: 4096,
  };
  const plain = noise(4, 32 * 1024);
  const bytes = Buffer.from(plain);
  const offset = (2 ** 32 - 16) * 512;
  sectorCipher(spec).encrypt(bytes, offset);
  t.true(bytes.equals(byOpenssl(spec, plain, offset)));
});

test('what no cipher can be made of is one clear error', (t) => {
  const good: SectorCipherSpec = {
    cipher: 'aes-256',
    mode: 'cbc',
    ivGenerator: 'plain64',
    ivHash: null,
    key: Buffer.alloc(32),
    sectorSize: 512,
  };
  const refused = (change: Partial<SectorCipherSpec>) =>
    t.throws(() => sectorCipher({ ...good, ...change }), { instanceOf: ImageError }).message;
  t.is(refused({ key: Buffer.alloc(16) }), 'A key of aes-256 in cbc mode has 32 bytes, not 16');
  t.is(refused({ mode: 'xts' }), 'A key of aes-256 in xts mode has 64 bytes, not 32');
  t.is(refused({ sectorSize: 768 }), 'Encrypted sectors of 768 bytes are not supported');
  t.is(refused({ sectorSize: 8192 }), 'Encrypted sectors of 8192 bytes are not supported');
  t.is(refused({ ivGenerator: null }), 'Cipher mode cbc needs an IV generator');
  t.is(refused({ ivGenerator: 'essiv' }), "IV generator 'essiv' needs a hash");
  // QEMU's words.
  t.is(refused({ ivGenerator: 'essiv', ivHash: 'sha1' }), 'No AES cipher with key size 20 available');
  const cipher = sectorCipher(good);
  t.throws(() => cipher.encrypt(Buffer.alloc(500), 0), { instanceOf: ImageError });
  t.throws(() => cipher.decrypt(Buffer.alloc(512), 256), { instanceOf: ImageError });
});
