import { randomBytes } from 'node:crypto';
import test from 'ava';
import { blockCipher } from '../../lib/crypto/block-cipher.ts';
import { cbc } from '../../lib/crypto/modes/cbc.ts';
import { ctr } from '../../lib/crypto/modes/ctr.ts';
import { ecb } from '../../lib/crypto/modes/ecb.ts';
import { type Mode, PIECE } from '../../lib/crypto/modes/mode.ts';
import { xts } from '../../lib/crypto/modes/xts.ts';
import { sectorCipher } from '../../lib/crypto/sector-cipher.ts';
import { plainKernel, vectorKernel } from '../../lib/crypto/wasm/kernel.ts';

const hex = (...texts: string[]) => Buffer.from(texts.join('').replaceAll(' ', ''), 'hex');

/** A mode whose only sector has that IV. */
const ivOf = (iv: Buffer) => (ivs: Buffer) => void iv.copy(ivs);

// NIST SP 800-38A, appendix F: the plain text of all examples, their keys, IV and first counter.
const PLAIN = hex(
  '6bc1bee22e409f96e93d7e117393172a ae2d8a571e03ac9c9eb76fac45af8e51',
  '30c81c46a35ce411e5fbc1191a0a52ef f69f2445df4f9b17ad2b417be66c3710',
);
const AES_128 = hex('2b7e151628aed2a6abf7158809cf4f3c');
const AES_256 = hex('603deb1015ca71be2b73aef0857d7781 1f352c073b6108d72d9810a30914dff4');
const IV = hex('000102030405060708090a0b0c0d0e0f');
const COUNTER = hex('f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff');

const SP_800_38A: readonly [string, Mode, Buffer][] = [
  [
    'F.1.1 ECB-AES128',
    ecb(blockCipher('aes-128', AES_128)),
    hex(
      '3ad77bb40d7a3660a89ecaf32466ef97 f5d3d58503b9699de785895a96fdbaaf',
      '43b1cd7f598ece23881b00e3ed030688 7b0c785e27e8ad3f8223207104725dd4',
    ),
  ],
  [
    'F.2.1 CBC-AES128',
    cbc(blockCipher('aes-128', AES_128), ivOf(IV), PLAIN.length),
    hex(
      '7649abac8119b246cee98e9b12e9197d 5086cb9b507219ee95db113a917678b2',
      '73bed6b8e3c1743b7116e69e22229516 3ff1caa1681fac09120eca307586e1a7',
    ),
  ],
  [
    'F.2.5 CBC-AES256',
    cbc(blockCipher('aes-256', AES_256), ivOf(IV), PLAIN.length),
    hex(
      'f58c4c04d6e5f1ba779eabfb5f7bfbd6 9cfc4e967edb808d679f777bc6702c7d',
      '39f23369a9d9bacfa530e26304231461 b2eb05e2c39be9fcda6c19078c6a9d1b',
    ),
  ],
  [
    'F.5.1 CTR-AES128',
    ctr(blockCipher('aes-128', AES_128), ivOf(COUNTER), PLAIN.length),
    hex(
      '874d6191b620e3261bef6864990db6ce 9806f66b7970fdff8617187bb9fffdff',
      '5ae4df3edbd5d35e5b4f09020db03eab 1e031dda2fbe03d1792170a0f3009cee',
    ),
  ],
  [
    'F.5.5 CTR-AES256',
    ctr(blockCipher('aes-256', AES_256), ivOf(COUNTER), PLAIN.length),
    hex(
      '601ec313775789a5b7a7f504bbf3d228 f443e3ca4d62b59aca84e990cacaf5c5',
      '2b0930daa23de94ce87017ba2d84988d dfc9c58db67aada613c2dd08457941a6',
    ),
  ],
];

test('ECB, CBC and CTR give the examples of NIST SP 800-38A, there and back', (t) => {
  for (const [name, mode, encrypted] of SP_800_38A) {
    const bytes = Buffer.from(PLAIN);
    mode.encrypt(bytes, 0);
    t.is(bytes.toString('hex'), encrypted.toString('hex'), name);
    mode.decrypt(bytes, 0);
    t.is(bytes.toString('hex'), PLAIN.toString('hex'), name);
  }
});

// IEEE 1619-2007, appendix B: key, second key, number of the data unit, plain text, encrypted text.
const IEEE_1619: readonly [string, string, string, string, string][] = [
  [
    '00'.repeat(16),
    '00'.repeat(16),
    '00',
    '00'.repeat(32),
    '917cf69ebd68b2ec9b9fe9a3eadda692 cd43d2f59598ed858c02c2652fbf922e',
  ],
  [
    '11'.repeat(16),
    '22'.repeat(16),
    '3333333333',
    '44'.repeat(32),
    'c454185e6a16936e39334038acef838b fb186fff7480adc4289382ecd6d394f0',
  ],
  [
    'fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0',
    '22'.repeat(16),
    '3333333333',
    '44'.repeat(32),
    'af85336b597afc1a900b2eb21ec949d2 92df4c047e0b21532186a5971a227a89',
  ],
];

test('XTS gives the short vectors of IEEE 1619', (t) => {
  for (const [first, second, number, plain, encrypted] of IEEE_1619) {
    const iv = Buffer.alloc(16);
    hex(number).copy(iv);
    const mode = xts(blockCipher('aes-128', hex(first)), blockCipher('aes-128', hex(second)), ivOf(iv), 32);
    const bytes = hex(plain);
    mode.encrypt(bytes, 0);
    t.is(bytes.toString('hex'), hex(encrypted).toString('hex'));
    mode.decrypt(bytes, 0);
    t.is(bytes.toString('hex'), plain);
  }
});

test('XTS gives the vectors of IEEE 1619 of whole sectors, by their numbers', (t) => {
  const plain = Buffer.from(Array.from({ length: 512 }, (_, at) => at & 0xff));
  const sector = (key: Buffer, number: number) => {
    const spec = { mode: 'xts', ivGenerator: 'plain64', ivHash: null, key, sectorSize: 512 } as const;
    const bytes = Buffer.from(plain);
    sectorCipher({ ...spec, cipher: key.length === 32 ? 'aes-128' : 'aes-256' }).encrypt(bytes, number * 512);
    return bytes.subarray(0, 64).toString('hex');
  };
  // Vectors 4 and 10, the first 64 bytes of 512.
  const [e, pi] = ['27182818284590452353602874713526', '31415926535897932384626433832795'];
  t.is(
    sector(hex(e, pi), 0),
    '27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89c' +
      'c78cf7f5e543445f8333d8fa7f56000005279fa5d8b5e4ad40e736ddb4d35412',
  );
  const longE = '2718281828459045235360287471352662497757247093699959574966967627';
  const longPi = '3141592653589793238462643383279502884197169399375105820974944592';
  t.is(
    sector(hex(longE, longPi), 0xff),
    '1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b' +
      '5d31e276f8fe4a8d66b317f9ac683f44680a86ac35adfc3345befecb4bb188fd',
  );
});

test('vectors and plain integers do the same arithmetic', (t) => {
  const [vector, plain] = [vectorKernel(), plainKernel()];
  const [data, tweaks] = [randomBytes(PIECE), randomBytes(vector.tweaks.length)];
  // Carries out of both halves, and out of neither.
  tweaks.fill(0xff, 0, 16);
  tweaks.fill(0, 16, 32);
  for (const [sectors, blocks] of [
    [128, 32],
    [16, 256],
    [1, 1],
    [3, 64],
  ]) {
    for (const kernel of [vector, plain]) {
      data.copy(kernel.data);
      data.copy(kernel.mask);
      tweaks.copy(kernel.tweaks);
      kernel.whiten(sectors, blocks);
    }
    t.true(vector.data.equals(plain.data), `${sectors} ${blocks}: data`);
    t.true(vector.mask.equals(plain.mask), `${sectors} ${blocks}: tweaks`);
    for (const kernel of [vector, plain]) kernel.xor(sectors * blocks * 16);
    // What is XORed twice is as it was.
    t.true(vector.data.equals(data), 'vectors');
    t.true(plain.data.equals(data), 'plain integers');
    for (const kernel of [vector, plain]) {
      tweaks.copy(kernel.tweaks);
      kernel.gather(16 * (blocks - 1), 16 * blocks, sectors);
      kernel.scatter('data', 0, 16 * blocks, sectors);
      kernel.scatter('mask', 16 * (blocks - 1), 16 * blocks, sectors);
    }
    t.true(vector.tweaks.equals(plain.tweaks), 'gathered');
    t.true(vector.data.equals(plain.data), 'scattered over data');
    t.true(vector.mask.equals(plain.mask), 'scattered over the mask');
  }
});
