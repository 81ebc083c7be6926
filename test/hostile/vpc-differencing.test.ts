import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { vpc } from '../../lib/formats/vpc.ts';
import { createGate } from '../../lib/sources/gate.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { pattern, Random } from '../support/model.ts';
import { type Field, fieldMutations, type Mutation, randomMutations, truncations } from '../support/mutate.ts';
import { openRequest } from '../support/requests.ts';
import { makeVhd, utf16 } from '../support/vpc-images.ts';

const PARENT_ID = Buffer.alloc(16, 1);
const HEADER = 512;
const TABLE = 1536;
/** Guest bytes that are looked at: a mutated disk may be as large as any. */
const LOOK_BYTES = 2 * 1024 * 1024;

const disk = pattern(600 * 1024, 1);
const parent = makeVhd({ disk, blockSize: 64 * 1024, uniqueId: PARENT_ID });
const sound = makeVhd({
  disk,
  blockSize: 64 * 1024,
  present: (sector) => sector % 5 < 2 && sector > 100,
  parent: {
    uniqueId: PARENT_ID,
    name: 'C:\\parent.vhd',
    locators: [
      ['W2ru', utf16('.\\parent.vhd')],
      ['MacX', Buffer.from('file:///parent.vhd')],
    ],
  },
});

const FIELDS: readonly Field[] = [
  ...[16, 40, 48].map((at) => ({ name: `footer ${at}`, offset: at, width: 8 as const })),
  ...[28, 56, 60].map((at) => ({ name: `footer ${at}`, offset: at, width: 4 as const })),
  ...[16, 592, 616].map((at) => ({ name: `header ${at}`, offset: HEADER + at, width: 8 as const })),
  ...[28, 32, 576, 580, 584, 608].map((at) => ({ name: `header ${at}`, offset: HEADER + at, width: 4 as const })),
  ...[0, 1, 5, 9].map((at) => ({ name: `entry ${at}`, offset: TABLE + 4 * at, width: 4 as const })),
];

const REGIONS = [
  { name: 'footer', offset: 0, length: 100 },
  { name: 'header', offset: HEADER, length: 40 },
  { name: 'locators', offset: HEADER + 576, length: 48 },
  { name: 'table', offset: TABLE, length: 40 },
  { name: 'names', offset: TABLE + 512, length: 1024 },
  { name: 'bitmap', offset: TABLE + 512 + 1024, length: 512 },
];

/** The footer's checksum is made right again, since nothing else would be looked at. */
function sealed(bytes: Buffer): Buffer {
  if (bytes.length < 512) return bytes;
  bytes.writeUInt32BE(0, 64);
  let sum = 0;
  for (const byte of bytes.subarray(0, 512)) sum += byte;
  bytes.writeUInt32BE(~sum >>> 0, 64);
  return bytes;
}

/** Opens and reads the layer, as a chain would. Resolves to what was wrong with it, or null. */
async function exercise(bytes: Buffer): Promise<ImageError | null> {
  const storage = memoryStorage('child.vhd', bytes);
  const gate = {
    openStorage: async (reference: string) => {
      if (!reference.endsWith('parent.vhd')) throw new ImageError('missing', 'No such file or directory');
      return memoryStorage(reference, parent);
    },
  };
  const request = openRequest(storage, false, { gate });
  try {
    const source = await vpc.openSource(request);
    await source.describe();
    const end = Math.min(source.size, LOOK_BYTES);
    for (let at = 0; at < end; ) {
      const extents = await source.map(at, end - at);
      const last = extents[extents.length - 1];
      if (extents[0].offset !== at || last.offset + last.length <= at) throw new Error(`map stands still at ${at}`);
      at = last.offset + last.length;
    }
    await source.read(0, Buffer.alloc(end));
    if (source.size > end) await source.read(source.size - 512, Buffer.alloc(512));
    return null;
  } catch (error) {
    if (error instanceof ImageError) return error;
    throw error;
  }
}

test('differencing disks with spoilt fields, tables, bitmaps and names give a disk or a clear error', async (t) => {
  t.is(await exercise(Buffer.from(sound)), null);
  const random = new Random(1);
  const all: Mutation[] = [
    ...fieldMutations(sound, FIELDS, [0n, 512n, 1536n, BigInt(sound.length)]),
    ...randomMutations(random, REGIONS, 1200),
    ...truncations(Array.from({ length: 60 }, () => random.below(sound.length))),
  ];
  let refused = 0;
  for (const { name, apply } of all) {
    const spoilt = sealed(apply(Buffer.from(sound)));
    await t.notThrowsAsync(async () => {
      const error = await exercise(spoilt);
      if (error === null) return;
      refused += 1;
      if (error.message === '' || error.file === undefined) throw new Error(`an error that tells little: ${error}`);
    }, name);
  }
  t.true(refused > all.length / 10 && refused < all.length, `${refused} of ${all.length} refused`);
});

test('a parent that is named in any way is asked for through the gate, and only as a file', async (t) => {
  const random = new Random(2);
  let looked = 0;
  const pieces = ['json:', '{"driver":', 'nbd:', '..\\', '/', '\\\\', 'C:', 'a', '\0', ':', 'é', '%2f', 'file://', '.'];
  for (let round = 0; round < 500; round += 1) {
    const text = Array.from({ length: 1 + random.below(6) }, () => random.pick(pieces)).join('');
    const [platform, bytes] = random.pick([
      ['W2ru', utf16(text)],
      ['W2ku', utf16(text)],
      ['MacX', Buffer.from(`file://${text}`)],
    ] as const);
    const image = makeVhd({
      disk: disk.subarray(0, 4096),
      present: () => false,
      // Two names, or it would not be looked at.
      parent: { uniqueId: PARENT_ID, locators: [[platform, bytes]], name: 'x' },
    });
    const asked: string[] = [];
    const gate = createGate({
      implicit: (reference) => {
        asked.push(reference);
        return false;
      },
    });
    const storage = memoryStorage('child.vhd', image);
    const request = openRequest(storage, false, { gate });
    const source = await Promise.resolve(vpc.openSource(request)).catch((error) => {
      t.true(error instanceof ImageError, text);
      return null;
    });
    const named = source?.backing?.filename;
    for (const reference of named === undefined ? asked : [...asked, named]) t.notRegex(reference, /^[^/]*:|\0/, text);
    looked += asked.length;
  }
  t.true(looked > 500);
});
