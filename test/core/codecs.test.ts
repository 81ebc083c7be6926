import { randomBytes } from 'node:crypto';
import { deflateSync } from 'node:zlib';
import test from 'ava';
import fc from 'fast-check';
import { deflateRaw, inflateRaw, inflateZlib, zstdCompress, zstdDecompress } from '../../lib/core/codecs.ts';
import { ImageError } from '../../lib/core/errors.ts';

const SIZES = [512, 65536, 2 * 1024 * 1024];

function samples(size: number): Buffer[] {
  const text = Buffer.from('the quick brown fox ');
  return [Buffer.alloc(size), Buffer.alloc(size, text), randomBytes(size)];
}

test('deflate gives back what it took, whatever follows the stream', async (t) => {
  for (const size of SIZES) {
    for (const plain of samples(size)) {
      const packed = await deflateRaw(plain, { windowBits: 12 });
      const padded = Buffer.concat([packed, randomBytes(511)]);
      t.true((await inflateRaw(padded, size)).equals(plain));
    }
  }
});

test('a zlib stream must have the size that is asked for, its end and its checksum', async (t) => {
  const plain = Buffer.alloc(5_000_000, 'all work and no play ');
  const packed = deflateSync(plain);
  t.true((await inflateZlib(Buffer.concat([packed, randomBytes(100)]), plain.length)).equals(plain));
  const spoiled = Buffer.from(packed);
  spoiled[packed.length - 1] ^= 1;
  const attempts: [Buffer, number][] = [
    [packed, plain.length - 1],
    [packed, plain.length + 1],
    [packed.subarray(0, -4), plain.length],
    [spoiled, plain.length],
    [Buffer.alloc(0), 512],
  ];
  for (const [bytes, size] of attempts) {
    const error = await t.throwsAsync(inflateZlib(bytes, size), { instanceOf: ImageError });
    t.is(error.kind, 'corrupt');
  }
});

test('zstd gives back what it took, whatever follows the frame', async (t) => {
  for (const size of SIZES) {
    for (const plain of samples(size)) {
      const packed = await zstdCompress(plain);
      t.true((await zstdDecompress(Buffer.concat([packed, Buffer.alloc(511)]), size)).equals(plain));
      t.true((await zstdDecompress(Buffer.concat([packed, randomBytes(511)]), size)).equals(plain));
    }
  }
});

test('several zstd frames and skippable ones make up a cluster', async (t) => {
  const plain = randomBytes(4096);
  const skippable = Buffer.from('512a4d1803000000010203', 'hex');
  const frames = [await zstdCompress(plain.subarray(0, 1000)), skippable, await zstdCompress(plain.subarray(1000))];
  t.true((await zstdDecompress(Buffer.concat(frames), 4096)).equals(plain));
});

test('a stream of another size is corrupt', async (t) => {
  const plain = Buffer.alloc(65536, 'abc');
  const deflated = await deflateRaw(plain, { windowBits: 12 });
  const frame = await zstdCompress(plain);
  for (const size of [512, 65535, 65537, 131072]) {
    for (const attempt of [inflateRaw(deflated, size), zstdDecompress(frame, size)]) {
      const error = await t.throwsAsync(attempt, { instanceOf: ImageError });
      t.is(error.kind, 'corrupt');
    }
  }
});

test('a zstd frame that expands to gigabytes is refused before it is decoded', async (t) => {
  // A window of 128 MiB, and blocks that repeat one byte 128 Ki times each.
  const block = Buffer.from([0x02, 0x00, 0x10, 0x55]);
  const bomb = Buffer.concat([Buffer.from('28b52ffd0088', 'hex'), ...Array.from({ length: 100_000 }, () => block)]);
  const before = process.memoryUsage().rss;
  const error = await t.throwsAsync(zstdDecompress(bomb, 65536), { instanceOf: ImageError });
  t.is(error.kind, 'corrupt');
  t.true(process.memoryUsage().rss - before < 100 * 1024 * 1024);
});

test('damaged streams decode or are corrupt, and nothing else', async (t) => {
  const plain = Buffer.concat([Buffer.alloc(3000, 'abcdefg'), randomBytes(1096)]);
  const streams = { inflate: await deflateRaw(plain, { windowBits: 12 }), zstd: await zstdCompress(plain) };
  const codecs = { inflate: inflateRaw, zstd: zstdDecompress };
  const flips = fc.array(fc.tuple(fc.nat(), fc.integer({ min: 0, max: 255 })), { minLength: 1, maxLength: 6 });
  const damage = fc.tuple(fc.constantFrom('inflate' as const, 'zstd' as const), flips, fc.nat());
  await fc.assert(
    fc.asyncProperty(damage, async ([name, changes, cut]) => {
      const bytes = Buffer.from(streams[name]);
      for (const [at, value] of changes) bytes[at % Math.min(64, bytes.length)] = value;
      const shortened = cut % 3 === 0 ? bytes.subarray(0, cut % bytes.length) : bytes;
      try {
        t.is((await codecs[name](shortened, plain.length)).length, plain.length);
      } catch (error) {
        t.true(error instanceof ImageError, String(error));
      }
    }),
    { numRuns: 2000 },
  );
});
