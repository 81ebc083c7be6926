import { Readable, Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import test from 'ava';
import { decrypt, encrypt, ImageError } from '../../lib/index.ts';
import { luks2Image, PASSPHRASE, sealHeader } from '../support/luks2-images.ts';
import { Random } from '../support/model.ts';
import { type Field, fieldMutations, type Mutation, randomMutations, truncations } from '../support/mutate.ts';

const DISK = Buffer.alloc(100_000, 'disk');
const MAX_OUTPUT = 1024 * 1024;

async function through(bytes: Buffer, stage: unknown): Promise<Buffer> {
  const chunks: Buffer[] = [];
  const sink = new Writable({
    write(chunk, _encoding, callback) {
      chunks.push(chunk);
      callback();
    },
  });
  const cut = Array.from({ length: Math.ceil(bytes.length / 65_536) }, (_, index) =>
    bytes.subarray(index * 65_536, (index + 1) * 65_536),
  );
  await pipeline(Readable.from(cut), stage as never, sink);
  return Buffer.concat(chunks);
}

/** Bytes that came out, or -1 for an ImageError; anything else fails the test. */
async function outcome(container: Buffer): Promise<number> {
  try {
    return (await through(container, decrypt({ passphrase: PASSPHRASE }))).length;
  } catch (error) {
    if (error instanceof ImageError) return -1;
    throw error;
  }
}

async function counts(image: Buffer, mutations: readonly Mutation[], mend: (image: Buffer) => void = () => {}) {
  const found = { refused: 0, opened: 0, largest: 0 };
  for (const { name, apply } of mutations) {
    const spoilt = apply(Buffer.from(image));
    mend(spoilt);
    const length = await outcome(spoilt).catch((error) => {
      throw new Error(`${name}: ${error.stack}`);
    });
    if (length < 0) found.refused += 1;
    else found.opened += 1;
    found.largest = Math.max(found.largest, length);
  }
  return found;
}

/** LUKS On-Disk Format Specification 1.2.3: "phdr" and the first two key slots. */
const FIELDS: Field[] = [
  { name: 'version', offset: 6, width: 2 },
  { name: 'payload', offset: 104, width: 4 },
  { name: 'key bytes', offset: 108, width: 4 },
  { name: 'digest iterations', offset: 164, width: 4 },
  ...[208, 256].flatMap((at): Field[] => [
    { name: `slot at ${at}: state`, offset: at, width: 4 },
    { name: `slot at ${at}: iterations`, offset: at + 4, width: 4 },
    { name: `slot at ${at}: key material`, offset: at + 40, width: 4 },
    { name: `slot at ${at}: stripes`, offset: at + 44, width: 4 },
  ]),
];

test('LUKS1 containers that are spoilt come out of a stream as a disk or an ImageError', async (t) => {
  const stage = encrypt({ passphrase: PASSPHRASE, options: { 'iter-time': '1', 'cipher-alg': 'aes-128' } });
  const image = await through(DISK, stage);
  const seed = Date.now() % 2 ** 32;
  t.log(`seed ${seed}`);
  // Numbers of iterations that are allowed, but take seconds, are not of interest here.
  const fields = fieldMutations(image, FIELDS).filter(({ name }) => !/iterations = 0x7f|iterations = 0x8/.test(name));
  const bytes = randomMutations(new Random(seed), [{ name: 'names', offset: 8, length: 96 }], 60);
  const cuts = truncations([0, 5, 8, 591, 592, 4095, 4096, 5000, 140_000, image.length - 100_000, image.length - 1]);
  const { refused, opened, largest } = await counts(image, [...fields, ...bytes, ...cuts]);
  t.true(refused > 100, `${refused} were refused`);
  t.true(opened > 5, `${opened} were opened`);
  t.true(largest <= MAX_OUTPUT + image.length);
});

test('LUKS2 containers that are spoilt come out of a stream as a disk or an ImageError', async (t) => {
  const image = luks2Image(DISK.subarray(0, 98_304));
  const seed = Date.now() % 2 ** 32;
  t.log(`seed ${seed}`);
  const regions = [{ name: 'metadata', offset: 4096, length: image.indexOf(0, 4096) - 4096 }];
  const mutations = [
    ...randomMutations(new Random(seed), regions, 250),
    // The last of them cuts nothing off: few spoilt bytes of the metadata are of no consequence.
    ...truncations([4096, 16_384, 32_768, 200_000, image.length]),
  ];
  const { refused, opened } = await counts(image, mutations, (spoilt) => {
    if (spoilt.length >= 16_384) sealHeader(spoilt, 0);
    spoilt.subarray(16_384, 20_480).fill(0);
  });
  t.true(refused > 50, `${refused} were refused`);
  t.true(opened > 0, `${opened} were opened`);
});
