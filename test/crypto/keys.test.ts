import { createHash, randomBytes } from 'node:crypto';
import test from 'ava';
import fc from 'fast-check';
import { ImageError } from '../../lib/core/errors.ts';
import { digest, digestBytes, type HashName, isHashName } from '../../lib/crypto/hash.ts';
import { deriveKey, iterationsFor, MAX_ITERATIONS, MIN_ITERATIONS } from '../../lib/crypto/pbkdf2.ts';
import { mergeKey, splitKey } from '../../lib/crypto/splitter.ts';

/** Digests of "abc": RFC 1321, FIPS 180-4, the paper of RIPEMD-160. */
const ABC: readonly [HashName, string][] = [
  ['md5', '900150983cd24fb0d6963f7d28e17f72'],
  ['sha1', 'a9993e364706816aba3e25717850c26c9cd0d89d'],
  ['sha224', '23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7'],
  ['sha256', 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'],
  ['sha384', 'cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7'],
  [
    'sha512',
    'ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e' +
      '2a9ac94fa54ca49f',
  ],
  ['ripemd160', '8eb208f7e05d987a9b044a8e98c6b087f15a0bfc'],
];

test('hashes give their published vectors', (t) => {
  for (const [name, expected] of ABC) {
    t.is(digest(name, Buffer.from('a'), Buffer.from('bc')).toString('hex'), expected, name);
    t.is(digestBytes(name), expected.length / 2, name);
    t.true(isHashName(name));
  }
  t.false(isHashName('whirlpool'));
  t.false(isHashName('toString'));
});

/** Hash, password, salt, iterations, key. */
const PBKDF2: readonly [HashName, string, string, number, string][] = [
  // RFC 6070.
  ['sha1', 'password', 'salt', 1, '0c60c80f961f0e71f3a9b524af6012062fe037a6'],
  ['sha1', 'password', 'salt', 2, 'ea6c014dc72d6f8ccd1ed92ace1d41f0d8de8957'],
  ['sha1', 'password', 'salt', 4096, '4b007901b765489abead49d926f721d065a429c1'],
  [
    'sha1',
    'passwordPASSWORDpassword',
    'saltSALTsaltSALTsaltSALTsaltSALTsalt',
    4096,
    '3d2eec4fe41c849b80c8d83662c0e44a8b291a964cf2f07038',
  ],
  ['sha1', 'pass\0word', 'sa\0lt', 4096, '56fa6aa75548099dcc37d7f03425e0c3'],
  // RFC 7914, section 11.
  [
    'sha256',
    'passwd',
    'salt',
    1,
    '55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc' +
      '49ca9cccf179b645991664b39d77ef317c71b845b1e30bd509112041d3a19783',
  ],
];

test('PBKDF2 gives its published vectors', async (t) => {
  for (const [hash, password, salt, iterations, expected] of PBKDF2) {
    const key = await deriveKey(hash, Buffer.from(password), Buffer.from(salt), iterations, expected.length / 2);
    t.is(key.toString('hex'), expected, `${hash} ${iterations}`);
  }
});

test('a number of iterations that nobody can do is one clear error', async (t) => {
  for (const iterations of [0, -1, 1.5, MAX_ITERATIONS + 1]) {
    await t.throwsAsync(deriveKey('sha1', Buffer.alloc(1), Buffer.alloc(8), iterations, 20), {
      instanceOf: ImageError,
    });
  }
});

test('more time allows more iterations, and none is too little for a thousand', (t) => {
  const [little, much] = [10, 10_000].map((milliseconds) => iterationsFor('sha256', milliseconds, 32));
  t.true(much > little, `${little} ${much}`);
  t.is(iterationsFor('sha512', 0, 64), MIN_ITERATIONS);
});

/** The splitter as the specification of LUKS has it (section 2.4), of one stripe after the other. */
function mergeByTheBook(hash: HashName, material: Buffer, length: number): Buffer {
  let d = Buffer.alloc(length);
  for (let at = 0; at < material.length; at += length) {
    d = Buffer.from(d.map((byte, index) => byte ^ material[at + index]));
    if (at + length === material.length) break;
    const pieces: Buffer[] = [];
    for (let piece = 0; piece * digestBytes(hash) < length; piece += 1) {
      const part = d.subarray(piece * digestBytes(hash), (piece + 1) * digestBytes(hash));
      const number = Buffer.from([0, 0, 0, piece]);
      pieces.push(
        createHash(hash)
          .update(Buffer.concat([number, part]))
          .digest()
          .subarray(0, part.length),
      );
    }
    d = Buffer.concat(pieces);
  }
  return d;
}

test('a split key is merged again, as the specification says, and not without one of its stripes', (t) => {
  const property = fc.property(
    fc.constantFrom<HashName>('sha1', 'sha256', 'sha512', 'ripemd160'),
    fc.integer({ min: 1, max: 80 }),
    fc.integer({ min: 1, max: 40 }),
    (hash, length, stripes) => {
      const key = randomBytes(length);
      const material = splitKey(hash, key, stripes);
      t.is(material.length, length * stripes);
      t.true(mergeKey(hash, material, length, stripes).equals(key));
      t.true(mergeByTheBook(hash, material, length).equals(key));
      material[(length * stripes) >> 1] ^= 1;
      t.false(mergeKey(hash, material, length, stripes).equals(key));
    },
  );
  fc.assert(property, { numRuns: 100 });
});

test('stripes that there can not be are one clear error', (t) => {
  for (const stripes of [0, -1, 0.5]) {
    t.throws(() => splitKey('sha1', Buffer.alloc(4), stripes), { instanceOf: ImageError });
  }
  t.throws(() => mergeKey('sha1', Buffer.alloc(7), 4, 2), { instanceOf: ImageError });
});
