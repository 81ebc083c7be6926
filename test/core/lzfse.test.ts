import test from 'ava';
import fc from 'fast-check';
import { decodeAdc } from '../../lib/core/adc.ts';
import { ImageError } from '../../lib/core/errors.ts';
import { decodeLzfse } from '../../lib/core/lzfse.ts';
import { encodeAdc } from '../support/adc-encoder.ts';
import { encodeLzfse, type LzfseKind } from '../support/lzfse-encoder.ts';
import { pattern, Random } from '../support/model.ts';
import { sparseDisk } from '../support/sparse-disk.ts';

/** What these streams hold: words in an order that only the seed knows. */
function words(random: Random, length: number): Buffer {
  const all = ['grain ', 'cluster ', 'chunk ', 'sector ', 'table '];
  let text = '';
  while (text.length < length) text += random.pick(all);
  return Buffer.from(text.slice(0, length));
}

// Made by the `lzfse` of Apple's reference implementation (github.com/lzfse/lzfse): `lzfse -encode`.
const REFERENCE_LZVN =
  'YnZ4biwBAABuAAAA5mdyYWluIBgG4AJ0YWJsZSBzZWN0b3IgY2h1bmv69OVsdXN0ZSgaKCcgFRhCODzzGBMwNjg+8ygOGHM4DvQ4k/I4RPU4evIYGyBB' +
  'OBnyIAc4zvMYDThg+Dha9Dga8iA5MCHjaHVuBgAAAAAAAABidngk';
const REFERENCE_V2 =
  'YnZ4MnAXAAAkACABAAkCcDNRt3ys5QIApgAAAD9Y0ABfAoACACAggCcXQ724mN0BBO7L5c3N1eHV5d355d3d9d2uAAAAAAAAAAAAwIcAAAAAAAAAAHwP' +
  'AAAAAAAAAAAAAAAAAAAAAB/CE/Bd8D3wBHwITwBPwIfA9/AEwIfwIXwP3wMAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAADA3Q16b9oX' +
  'lZTvpaaAlBBpEwAAAAAAAAAAAABQ4AurYF9luhUl7/7ZUddEhAIXvkyTgpYmomwR5GhSYckvqhY57yuzkRrdEs/YgiofD7CbyH5w4V04rHKG3pMR3gqT' +
  'MCQE0PgjK04v1k09uKFLMam8EmY7tFheVtdQaWJJc8XuKTq1ThWjgfkWucW76CoQgpZTlOGp1xmq9AJX/cN2Bq8VErqbanyDBOz/xikBRXL2HFICfNq+' +
  'FnzoPK7ek/lFLklw7SpVbTxlqDTSE3QyQJ1j6jRF41JoINy/cWndhz1rNRLfE7J86ml6bXjawXD5aeF2AvUv2J4cTOXzPJThyF7qsGTmJq0a9qwCpzWt' +
  'Z2pFuK/gFom4ZmlkKRfs0zcTotCs8QLkoBzh3EHoFKq2IrYHta5qeMQ8EhcvEEUPfSJyE0aKqDoE1HYYi7F5axZxvAv0pFkQq5dSX6wb5I+YTY0FDonK' +
  'gjpvX+oX7+jAvAWOvNgtB3q8g22aTa2J/Q4sY37aqRIyMSZGbynxwC9VioA5V07g22UUE7ylpLXGaZISZtV1CWIULqWecyLIhGi3htOA+6kuB4lnjyw/' +
  'uli97HfYc0qKxlvgruJSN6Cseb78hePaakpLqrg4llo9KTobpDw5D0/su1w1DAHT0zPxEyBhfrgkraSuCD7Pl9ERg8o11+ixsJ5hePhvjJAS2AO7rQLI' +
  'IUCxB7KcUYqHGEFqsS4SyJrqU5L+iRIGsrQEkEHGkp60S90AXqUuvpugs4tTGuD1p9A2bWQ81MP44yH9cHMNuR8YpvYlmbdiGEitySGOG9/sN5QQbrcj' +
  'Dg/HVtqqSJxzYQBPVNX9EocsPounCiPfqWGE2KIuhLkcrbPO9KjHYHD/UyGGe+Etfn5xiZu3llBhSR5e+LYxhVlpGBApfnoRAwzfeyGPeYbzl1oqYXlR' +
  'JOxoqnzFGtvC2hHXyrRxCIFk3CG2eGF0G3gEm3wML+1UpbNqvjqGIAiJFV3tjEHse4yL6kf1AWJ2eCQ=';

const KINDS: readonly (readonly LzfseKind[])[] = [
  ['plain'],
  ['lzvn'],
  ['v1'],
  ['v2'],
  ['v2', 'lzvn', 'plain', 'v1', 'v2'],
];

const SAMPLES: readonly Buffer[] = [
  Buffer.from('a'),
  Buffer.alloc(300_000),
  pattern(100_000, 3),
  sparseDisk(400 * 512, 4),
  new Random(5).bytes(60_000),
  words(new Random(6), 50_000),
];

test('LZFSE as the reference implementation makes it decodes', (t) => {
  const random = new Random(7);
  t.true(decodeLzfse(Buffer.from(REFERENCE_LZVN, 'base64'), 300).equals(words(random, 300)));
  t.true(decodeLzfse(Buffer.from(REFERENCE_V2, 'base64'), 6000).equals(words(random, 6000)));
});

test('LZFSE gives back what it took, in blocks of every kind', (t) => {
  for (const plain of SAMPLES) {
    for (const kinds of KINDS) {
      t.true(decodeLzfse(encodeLzfse(plain, kinds), plain.length).equals(plain), `${kinds} of ${plain.length}`);
    }
  }
});

test('LZVN knows all its opcodes', (t) => {
  const literals = (text: string) => [...Buffer.from(text)];
  const opcodes = [
    [0xe4, ...literals('abcd')],
    // Two literals, 3 bytes from 4 back; the same distance again; nothing, twice.
    [0x80, 4, ...literals('ef')],
    [0x46, ...literals('g')],
    [0x0e],
    [0x16],
    // Medium and large distances, a match alone.
    [0xa8, 9 << 2, 0, ...literals('h')],
    [0x0f, 2, 0],
    [0xf2],
    [0xf0, 1],
    [0xe0, 0, ...literals('0123456789abcdef')],
    [6, 0, 0, 0, 0, 0, 0, 0],
  ].flat();
  const expected: string[] = [...'abcd', ...'ef'];
  const copy = (distance: number, length: number) => {
    for (let count = 0; count < length; count += 1) expected.push(expected[expected.length - distance]);
  };
  copy(4, 3);
  expected.push('g');
  copy(4, 3);
  expected.push('h');
  copy(9, 3);
  copy(2, 4);
  copy(2, 2);
  copy(2, 17);
  expected.push(...'0123456789abcdef');
  const head = Buffer.from('bvxn........');
  head.writeUInt32LE(expected.length, 4);
  head.writeUInt32LE(opcodes.length, 8);
  const packed = Buffer.concat([head, Buffer.from(opcodes), Buffer.from('bvx$')]);
  t.is(decodeLzfse(packed, expected.length).toString(), expected.join(''));
});

test('ADC gives back what it took', (t) => {
  for (const plain of SAMPLES) t.true(decodeAdc(encodeAdc(plain), plain.length).equals(plain));
  // Three literals, three bytes from two back, four from three back in the long form.
  const stream = Buffer.from([0x82, 0x61, 0x62, 0x63, 0x00, 0x01, 0x40, 0x00, 0x02]);
  t.is(decodeAdc(stream, 10).toString(), 'abcbcbbcbb');
});

test('streams of another size are corrupt', (t) => {
  const plain = words(new Random(1), 5000);
  for (const size of [0, 4999, 5001, 10_000, 64 * 1024 * 1024]) {
    t.is(
      t.throws(() => decodeAdc(encodeAdc(plain), size === 0 ? 6000 : size + 10), { instanceOf: ImageError })?.kind,
      'corrupt',
    );
    for (const kinds of KINDS) {
      t.is(t.throws(() => decodeLzfse(encodeLzfse(plain, kinds), size), { instanceOf: ImageError })?.kind, 'corrupt');
    }
  }
});

test('damaged streams decode or are corrupt, and nothing else', (t) => {
  const plain = Buffer.concat([words(new Random(2), 3000), new Random(3).bytes(1000)]);
  const streams = [...KINDS.map((kinds) => encodeLzfse(plain, kinds)), encodeAdc(plain)];
  const flips = fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 6 });
  const damage = fc.tuple(fc.nat(streams.length - 1), flips, fc.nat(), fc.boolean());
  fc.assert(
    fc.property(damage, ([which, changes, cut, inHead]) => {
      const bytes = Buffer.from(streams[which]);
      for (const [at, value] of changes) bytes[at % (inHead ? 64 : bytes.length)] = value;
      const shortened = cut % 4 === 0 ? bytes.subarray(0, cut % bytes.length) : bytes;
      const decode = which === KINDS.length ? decodeAdc : decodeLzfse;
      try {
        t.is(decode(shortened, plain.length).length, plain.length);
      } catch (error) {
        t.true(error instanceof ImageError, String(error));
      }
    }),
    { numRuns: 4000 },
  );
});
