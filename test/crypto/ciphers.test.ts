import { randomBytes } from 'node:crypto';
import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import {
  blockCipher,
  type CipherName,
  cipherBlockBytes,
  cipherKeyBytes,
  isCipherName,
} from '../../lib/crypto/block-cipher.ts';
import {
  INVERSE_CIRCUITS,
  parseCircuit,
  SERPENT_BOXES,
  SERPENT_CIRCUITS,
} from '../../lib/crypto/ciphers/serpent-boxes.ts';
import { tool } from '../support/tools.ts';

const hex = (text: string) => Buffer.from(text.replaceAll(' ', ''), 'hex');
const zeros = '00'.repeat(16);

/** Cipher, key, plain block, encrypted block. */
const VECTORS: readonly [CipherName, string, string, string][] = [
  // FIPS 197, appendix C.
  [
    'aes-128',
    '000102030405060708090a0b0c0d0e0f',
    '00112233445566778899aabbccddeeff',
    '69c4e0d86a7b0430d8cdb78070b4c55a',
  ],
  [
    'aes-192',
    '000102030405060708090a0b0c0d0e0f1011121314151617',
    '00112233445566778899aabbccddeeff',
    'dda97ca4864cdfe06eaf70a0ec0d7191',
  ],
  [
    'aes-256',
    '000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f',
    '00112233445566778899aabbccddeeff',
    '8ea2b7ca516745bfeafc49904b496089',
  ],
  // NESSIE's vectors of Serpent, set 1, vector 0.
  ['serpent-128', `80${'00'.repeat(15)}`, zeros, '264e5481eff42a4606abda06c0bfda3d'],
  ['serpent-192', `80${'00'.repeat(23)}`, zeros, '9e274ead9b737bb21efcfca548602689'],
  ['serpent-256', `80${'00'.repeat(31)}`, zeros, 'a223aa1288463c0e2be38ebd825616c0'],
  // The Twofish paper, appendix B.
  ['twofish-128', zeros, zeros, '9f589f5cf6122c32b6bfec2f2ae8c35a'],
  ['twofish-192', '0123456789abcdeffedcba98765432100011223344556677', zeros, 'cfd1d2e5a9be9cdf501f13b892bd2248'],
  [
    'twofish-256',
    '0123456789abcdeffedcba987654321000112233445566778899aabbccddeeff',
    zeros,
    '37527be0052334b89f0cfccae87cfa20',
  ],
  // RFC 2144, appendix B.1.
  ['cast5-128', '0123456712345678234567893456789a', '0123456789abcdef', '238b4fe5847e44b2'],
];

test('ciphers give their published vectors, there and back', (t) => {
  for (const [name, key, plain, encrypted] of VECTORS) {
    const cipher = blockCipher(name, hex(key));
    t.is(cipher.encrypt(hex(plain)).toString('hex'), encrypted, name);
    t.is(cipher.decrypt(hex(encrypted)).toString('hex'), plain, name);
  }
});

// The Twofish paper, appendix B.2: the result of 49 encryptions, each of the last result, with the last plain block for
// the beginning of its key.
const TWOFISH_CHAINS: readonly [CipherName, string][] = [
  ['twofish-128', '5d9d4eeffa9151575524f115815a12e0'],
  ['twofish-192', 'e75449212beef9f4a390bd860a640941'],
  ['twofish-256', '37fe26ff1cf66175f5ddf4c33b97a205'],
];

test('Twofish chained through keys and blocks ends where its paper says', (t) => {
  for (const [name, expected] of TWOFISH_CHAINS) {
    let key = Buffer.alloc(cipherKeyBytes(name));
    let plain = Buffer.alloc(16);
    for (let step = 0; step < 49; step += 1) {
      const encrypted = blockCipher(name, key).encrypt(Buffer.from(plain));
      key = Buffer.concat([plain, key]).subarray(0, key.length);
      plain = Buffer.from(encrypted);
    }
    t.is(plain.toString('hex'), expected, name);
  }
});

/** A circuit on the four bits of `input`. */
function runCircuit(circuit: string, input: number): number {
  const { gates, outputs } = parseCircuit(circuit);
  const bits = [0, 1, 2, 3].map((index) => (input >> index) & 1);
  for (const { kind, a, b } of gates) {
    const [x, y] = [bits[a], bits[b]];
    bits.push({ '~': x ^ 1, '&': x & y, '|': x | y, '^': x ^ y, '-': x & (y ^ 1) }[kind]);
  }
  return outputs.reduce((value, output, index) => value | (bits[output] << index), 0);
}

test("Serpent's circuits are its S-boxes", (t) => {
  for (const [index, box] of SERPENT_BOXES.entries()) {
    for (let input = 0; input < 16; input += 1) {
      const output = Number.parseInt(box[input], 16);
      t.is(runCircuit(SERPENT_CIRCUITS[index], input), output, `S${index}`);
      t.is(runCircuit(INVERSE_CIRCUITS[index], output), input, `inverse of S${index}`);
    }
  }
});

test('many blocks at once are the same as each by itself', (t) => {
  for (const name of VECTORS.map(([each]) => each)) {
    const cipher = blockCipher(name, randomBytes(cipherKeyBytes(name)));
    const size = cipherBlockBytes(name);
    t.is(cipher.blockSize, size);
    for (const count of [1, 3, 4, 5, 9000]) {
      const plain = randomBytes(count * size);
      const encrypted = Buffer.from(cipher.encrypt(Buffer.from(plain)));
      for (const index of [0, count >> 1, count - 1]) {
        const block = plain.subarray(index * size, (index + 1) * size);
        const single = cipher.encrypt(Buffer.from(block));
        t.true(single.equals(encrypted.subarray(index * size, (index + 1) * size)), `${name} ${count} ${index}`);
      }
      t.true(cipher.decrypt(Buffer.from(encrypted)).equals(plain), `${name} ${count}`);
    }
  }
});

test('CAST5 says what OpenSSL says of thousands of blocks', (t) => {
  const openssl = tool('openssl');
  if (openssl.missing(t)) return;
  // Enough bytes that every entry of the S-boxes has been used.
  const plain = randomBytes(64 * 1024);
  for (let round = 0; round < 4; round += 1) {
    const key = randomBytes(16);
    const args = [
      'enc',
      '-provider',
      'legacy',
      '-provider',
      'default',
      '-cast5-ecb',
      '-nopad',
      '-K',
      key.toString('hex'),
    ];
    const { stdout, status, stderr } = openssl.run(args, { input: plain });
    t.is(status, 0, stderr);
    t.true(blockCipher('cast5-128', key).encrypt(Buffer.from(plain)).equals(stdout), key.toString('hex'));
  }
});

test('a key of another length is refused', (t) => {
  for (const [name, key] of VECTORS) {
    t.throws(() => blockCipher(name, hex(key).subarray(1)), { instanceOf: ImageError });
  }
  t.true(isCipherName('serpent-192'));
  t.false(isCipherName('3des'));
});
