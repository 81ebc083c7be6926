import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { bochs } from '../../lib/formats/bochs.ts';
import { openImage } from '../../lib/sources/open.ts';
import type { Source } from '../../lib/sources/source.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { makeBochs } from '../support/bochs-images.ts';
import { pattern } from '../support/model.ts';

const SECTOR = 512;
const EXTENT = 4096;
/** Header, catalog, and before each extent a sector with its bitmap. */
const DATA_AT = SECTOR + 4 * 4;
const STRIDE = SECTOR + EXTENT;

async function open(bytes: Buffer): Promise<Source> {
  const image = await openImage('image', { drivers: [bochs], storage: memoryStorage('image', bytes) });
  return image.source;
}

/** Sectors 2 to 4 and 31 are written; the second and third extents are not there. */
function disk(): Buffer {
  const bytes = Buffer.alloc(4 * EXTENT);
  pattern(3 * SECTOR, 1).copy(bytes, 2 * SECTOR);
  pattern(SECTOR, 2).copy(bytes, 31 * SECTOR);
  return bytes;
}

test('the map tells written sectors with their place, and all others as zeros', async (t) => {
  const source = await open(makeBochs(disk(), { extentSize: EXTENT }));
  const map = await source.map(0, source.size);
  const first = DATA_AT + SECTOR;
  t.deepEqual(
    map.map(({ kind, offset, length, hostOffset }) => [kind, offset / SECTOR, length / SECTOR, hostOffset]),
    [
      ['zero', 0, 2, -1],
      ['data', 2, 3, first + 2 * SECTOR],
      ['zero', 5, 26, -1],
      ['data', 31, 1, first + STRIDE + 7 * SECTOR],
    ],
  );
  const part = Buffer.alloc(700, 0xee);
  await source.read(4 * SECTOR + 100, part);
  t.true(part.equals(disk().subarray(4 * SECTOR + 100, 4 * SECTOR + 800)));
});

test('what is cut off is an error, not zeros', async (t) => {
  const whole = makeBochs(disk(), { extentSize: EXTENT });
  // Within the last written sector, before it, and within the bitmap before that.
  for (const missing of [1, SECTOR, EXTENT + 1]) {
    const source = await open(whole.subarray(0, whole.length - missing));
    const attempt = source.read(31 * SECTOR, Buffer.alloc(SECTOR));
    const error = await t.throwsAsync(attempt, { instanceOf: ImageError });
    t.is(error.kind, 'corrupt');
    t.is(error.format, 'bochs');
    await (await open(whole.subarray(0, whole.length - STRIDE + SECTOR))).describe();
  }
});

test('catalogs and bitmaps that cannot be are refused', async (t) => {
  const whole = makeBochs(disk(), { extentSize: EXTENT });
  const cases: [number, number, RegExp][] = [
    [68, 0xffff_fff0, /catalog lies past the end/],
    [76, 0, /Bitmap size is too small/],
    [SECTOR, 0xffff_fffe, /extent lies past the end/],
  ];
  for (const [offset, value, message] of cases) {
    const bytes = Buffer.from(whole);
    bytes.writeUInt32LE(value, offset);
    const attempt = (async () => (await open(bytes)).read(0, Buffer.alloc(SECTOR)))();
    t.regex((await t.throwsAsync(attempt, { instanceOf: ImageError })).message, message);
  }
});
