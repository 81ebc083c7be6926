import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { argon2Key, checkArgon2Cost, MAX_ARGON2_MEMORY } from '../../lib/crypto/argon2.ts';

/** From the reference implementation's tests (github.com/P-H-C/phc-winner-argon2, src/test.c), version 0x13. */
const VECTORS = [
  ['argon2i', 2, 16, 1, 'password', 'somesalt', 'c1628832147d9720c5bd1cfd61367078729f6dfb6f8fea9ff98158e0d7816ed0'],
  ['argon2i', 2, 8, 1, 'password', 'somesalt', '89e9029f4637b295beb027056a7336c414fadd43f6b208645281cb214a56452f'],
  ['argon2i', 2, 8, 2, 'password', 'somesalt', '4ff5ce2769a1d7f4c8a491df09d41a9fbe90e5eb02155a13e4c01e20cd4eab61'],
  ['argon2i', 1, 16, 1, 'password', 'somesalt', 'd168075c4d985e13ebeae560cf8b94c3b5d8a16c51916b6f4ac2da3ac11bbecf'],
  ['argon2i', 2, 16, 1, 'password', 'diffsalt', 'b0357cccfbef91f3860b0dba447b2348cbefecadaf990abfe9cc40726c521271'],
  ['argon2id', 2, 16, 1, 'password', 'somesalt', '09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7'],
  ['argon2id', 2, 8, 1, 'password', 'somesalt', '9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe'],
  ['argon2id', 2, 8, 2, 'password', 'somesalt', '6d093c501fd5999645e0ea3bf620d7b8be7fd2db59c20d9fff9539da2bf57037'],
  [
    'argon2id',
    2,
    16,
    1,
    'differentpassword',
    'somesalt',
    '0b84d652cf6b0c4beaef0dfe278ba6a80df6696281d7e0d2891b817d8c458fde',
  ],
] as const;

for (const [variant, time, bits, cpus, password, salt, expected] of VECTORS) {
  test(`${variant} of ${password} and ${salt}: ${time} passes over 2^${bits} KiB in ${cpus} lanes`, async (t) => {
    const cost = { time, memory: 2 ** bits, cpus };
    const key = await argon2Key(variant, Buffer.from(password), Buffer.from(salt), cost, 32);
    t.is(key.toString('hex'), expected);
  });
}

test('keys are as long as asked for', async (t) => {
  for (const length of [16, 32, 64, 100]) {
    const cost = { time: 1, memory: 32, cpus: 4 };
    t.is((await argon2Key('argon2id', Buffer.from('x'), Buffer.alloc(16), cost, length)).length, length);
  }
});

test('costs that nobody could mean are refused before anything is spent', async (t) => {
  const costs = [
    { time: 1, memory: 2 ** 32 - 1, cpus: 4 },
    { time: 1, memory: MAX_ARGON2_MEMORY + 1, cpus: 1 },
    { time: 2 ** 32 - 1, memory: 32, cpus: 1 },
    { time: 1, memory: 32, cpus: 5 },
    { time: 1, memory: 32, cpus: 2 ** 32 - 1 },
  ];
  for (const cost of costs) t.throws(() => checkArgon2Cost(cost), { instanceOf: ImageError });
  const key = (password: string, salt: number) =>
    argon2Key('argon2i', Buffer.from(password), Buffer.alloc(salt), { time: 1, memory: 32, cpus: 1 }, 32);
  await t.throwsAsync(key('', 16), { instanceOf: ImageError });
  await t.throwsAsync(key('x', 7), { instanceOf: ImageError });
});

test('what takes long is done in another thread: this one goes on', async (t) => {
  let turns = 0;
  const turning = setInterval(() => {
    turns += 1;
  }, 1);
  const cost = { time: 4, memory: 2 ** 16, cpus: 1 };
  await argon2Key('argon2id', Buffer.from('password'), Buffer.from('somesalt'), cost, 32);
  clearInterval(turning);
  t.true(turns > 10, `${turns} turns`);
});
