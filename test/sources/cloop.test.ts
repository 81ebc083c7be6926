import { deflateSync } from 'node:zlib';
import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { cloop } from '../../lib/formats/cloop.ts';
import { openImage } from '../../lib/sources/open.ts';
import type { Source } from '../../lib/sources/source.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { makeCloop } from '../support/cloop-images.ts';
import { pattern } from '../support/model.ts';

const BLOCK = 4096;
const OFFSETS_AT = 136;

async function open(bytes: Buffer): Promise<Source> {
  const image = await openImage('image', { drivers: [cloop], storage: memoryStorage('image', bytes) });
  return image.source;
}

async function message(t: import('ava').ExecutionContext, bytes: Buffer): Promise<string> {
  const attempt = (async () => (await open(bytes)).read(0, Buffer.alloc(BLOCK)))();
  const error = await t.throwsAsync(attempt, { instanceOf: ImageError });
  t.is(error.kind, 'corrupt');
  t.is(error.format, 'cloop');
  return error.message;
}

/** An image of one block, with this stream in it. */
function ofStream(stream: Buffer): Buffer {
  const bytes = makeCloop(Buffer.alloc(BLOCK), BLOCK).subarray(0, OFFSETS_AT + 16);
  bytes.writeBigUInt64BE(BigInt(bytes.length + stream.length), OFFSETS_AT + 8);
  return Buffer.concat([bytes, stream]);
}

test('blocks that inflate to another size, or not at all, are corrupt', async (t) => {
  for (const size of [0, BLOCK - 1, BLOCK + 1, 10_000_000]) {
    t.regex(await message(t, ofStream(deflateSync(Buffer.alloc(size)))), /zlib stream/, `${size}`);
  }
  const sound = deflateSync(pattern(BLOCK, 1));
  t.regex(await message(t, ofStream(sound.subarray(0, -1))), /zlib stream/);
  t.regex(await message(t, ofStream(Buffer.alloc(0))), /past the end|zlib stream/);
  const found = Buffer.alloc(BLOCK);
  await (await open(ofStream(sound))).read(0, found);
  t.true(found.equals(pattern(BLOCK, 1)));
});

test('tables and blocks that the file does not hold are refused', async (t) => {
  const whole = makeCloop(pattern(20 * BLOCK, 1), BLOCK);
  t.regex(await message(t, whole.subarray(0, OFFSETS_AT + 100)), /offsets table lies past the end/);
  t.regex(await message(t, whole.subarray(0, OFFSETS_AT + 21 * 8)), /past the end of the file/);
  const source = await open(whole.subarray(0, -1));
  await source.read(0, Buffer.alloc(19 * BLOCK));
  await t.throwsAsync(source.read(19 * BLOCK, Buffer.alloc(BLOCK)), { message: /Block 19 lies past the end/ });
});

test('offsets are read in pages, and blocks beyond the first page are found', async (t) => {
  const disk = Buffer.alloc(8200 * 512);
  pattern(512, 3).copy(disk, 8191 * 512);
  pattern(1024, 4).copy(disk, 8195 * 512);
  const source = await open(makeCloop(disk, 512));
  const found = Buffer.alloc(disk.length, 0xee);
  await source.read(0, found);
  t.true(found.equals(disk));
  const [extent, ...others] = await source.map(0, source.size);
  t.deepEqual([extent.kind, extent.length, extent.compressed, others.length], ['data', disk.length, true, 0]);
});
