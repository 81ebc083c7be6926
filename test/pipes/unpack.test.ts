import test, { type ExecutionContext } from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { ChunkReader } from '../../lib/storage/chunks.ts';
import { detectPacking, type Packing, unpack } from '../../lib/storage/unpack.ts';
import { gunzip } from '../../lib/storage/unpack-gzip.ts';
import { chunked, seeded } from '../support/chunked.ts';
import { tool } from '../support/tools.ts';

/** Something of everything: noise, text, long runs of zeros and of one byte, repeats far apart. */
function sample(bytes: number): Buffer {
  const random = seeded(bytes);
  const parts: Buffer[] = [];
  for (let size = 0; size < bytes; ) {
    const length = 1 + Math.floor(random() * 60_000);
    const kind = Math.floor(random() * 5);
    let part: Buffer = Buffer.alloc(length, kind === 1 ? 0x61 : 0);
    if (kind === 2) part = Buffer.from(part.map(() => random() * 256));
    if (kind === 3) part = Buffer.from('disk image '.repeat(Math.ceil(length / 11))).subarray(0, length);
    if (kind === 4 && parts.length > 0) part = parts[Math.floor(random() * parts.length)];
    parts.push(part);
    size += part.length;
  }
  return Buffer.concat(parts).subarray(0, bytes);
}

const PLAIN = sample(3_000_000);

interface Packer {
  packing: Packing;
  program: string;
  args: string[];
  /** Where a changed byte must be noticed: behind the fields that nobody reads. */
  checkedFrom: number;
}

const PACKERS: Packer[] = [
  { packing: 'gzip', program: 'gzip', args: ['-nc'], checkedFrom: 10 },
  { packing: 'gzip', program: 'gzip', args: ['-nc1'], checkedFrom: 10 },
  { packing: 'bzip2', program: 'bzip2', args: ['-c'], checkedFrom: 4 },
  { packing: 'bzip2', program: 'bzip2', args: ['-c1'], checkedFrom: 4 },
  { packing: 'xz', program: 'xz', args: ['-c', '-T1'], checkedFrom: 0 },
  { packing: 'xz', program: 'xz', args: ['-c', '-0', '-T2', '--block-size=200000', '--check=sha256'], checkedFrom: 0 },
  { packing: 'xz', program: 'xz', args: ['-c', '--check=crc32', '--lzma2=dict=64KiB,lc=0,lp=4,pb=0'], checkedFrom: 0 },
  { packing: 'xz', program: 'xz', args: ['-c', '-9', '--check=none'], checkedFrom: Number.POSITIVE_INFINITY },
  { packing: 'zstd', program: 'zstd', args: ['-qc'], checkedFrom: 0 },
  { packing: 'zstd', program: 'zstd', args: ['-qc', '-19', '--no-check'], checkedFrom: Number.POSITIVE_INFINITY },
  { packing: 'zstd', program: 'zstd', args: ['-qc', '-1', '--no-content-size'], checkedFrom: 0 },
];

async function unpacked(packed: Buffer, seed: number, most?: number): Promise<Buffer> {
  const parts: Buffer[] = [];
  for await (const chunk of unpack(chunked(packed, seeded(seed), most), '-')) parts.push(Buffer.from(chunk));
  return Buffer.concat(parts);
}

function pack(t: ExecutionContext, { program, args }: Packer, input = PLAIN): Buffer | null {
  const packer = tool(program);
  return packer.missing(t) ? null : packer.run(args, { input }).stdout;
}

for (const packer of PACKERS) {
  const title = [packer.program, ...packer.args].join(' ');

  test(`what ${title} packs comes out as it was, however the stream is cut`, async (t) => {
    const packed = pack(t, packer);
    if (packed === null) return;
    t.is(detectPacking(packed), packer.packing);
    t.true((await unpacked(packed, 1)).equals(PLAIN));
    t.true((await unpacked(packed, 2, 1 << 20)).equals(PLAIN));
  });

  test(`two streams of ${title} one after the other come out joined`, async (t) => {
    const first = pack(t, packer, PLAIN.subarray(0, 100_000));
    const second = pack(t, packer, Buffer.alloc(0));
    const third = pack(t, packer, PLAIN.subarray(100_000, 250_000));
    if (first === null || second === null || third === null) return;
    const joined = Buffer.concat([first, second, third]);
    t.true((await unpacked(joined, 3, 70)).equals(PLAIN.subarray(0, 250_000)));
  });

  test(`a stream of ${title} that is cut off anywhere is an error`, async (t) => {
    const packed = pack(t, packer, PLAIN.subarray(0, 150_000));
    if (packed === null) return;
    const random = seeded(4);
    // Cut shorter than the magic, it is not known for a packed stream.
    const places = [packed.length - 1, 20, ...Array.from({ length: 30 }, () => 20 + random() * (packed.length - 20))];
    for (const place of places) {
      const error = await t.throwsAsync(unpacked(packed.subarray(0, place), 5), { instanceOf: ImageError });
      t.is(error?.kind, 'corrupt', `cut at ${Math.floor(place)}`);
      t.is(error?.file, '-');
    }
  });

  test(`a changed byte in a stream of ${title} is an error, or changes nothing`, async (t) => {
    const plain = PLAIN.subarray(0, 60_000);
    const packed = pack(t, packer, plain);
    if (packed === null) return;
    const random = seeded(6);
    for (let round = 0; round < 60; round += 1) {
      const place = round < 30 ? Math.min(round, packed.length - 1) : Math.floor(random() * packed.length);
      const spoilt = Buffer.from(packed);
      spoilt[place] ^= 1 + Math.floor(random() * 255);
      // Without its magic it is a stream of another kind, and passes as it is.
      if (detectPacking(spoilt) !== packer.packing) continue;
      const result = await unpacked(spoilt, 7).catch((error: unknown) => error);
      if (Buffer.isBuffer(result)) t.true(result.equals(plain) || place < packer.checkedFrom, `byte ${place}`);
      else t.true(result instanceof ImageError, `byte ${place}: ${String(result)}`);
    }
  });
}

test('streams of a few bytes come out, too', async (t) => {
  for (const packer of PACKERS) {
    for (const length of [0, 1, 5, 300]) {
      const packed = pack(t, packer, PLAIN.subarray(0, length));
      if (packed === null) return;
      t.true((await unpacked(packed, 17, 3)).equals(PLAIN.subarray(0, length)), `${packer.args} ${length}`);
    }
  }
});

test('what follows a gzip stream is ignored unless it is another one', async (t) => {
  const packed = pack(t, PACKERS[0], PLAIN.subarray(0, 50_000));
  if (packed === null) return;
  for (const tail of [Buffer.alloc(1000), Buffer.from('garbage'), Buffer.from([0x1f]), Buffer.alloc(70_000, 7)]) {
    const found = await unpacked(Buffer.concat([packed, tail]), 8);
    t.true(found.equals(PLAIN.subarray(0, 50_000)));
  }
});

test('gzip is unpacked by Node alone, too, where zlib-sync is not installed', async (t) => {
  const packed = pack(t, PACKERS[0], PLAIN.subarray(0, 200_000));
  if (packed === null) return;
  const byNode = async (input: Buffer): Promise<Buffer> => {
    const parts: Buffer[] = [];
    const reader = new ChunkReader(chunked(input, seeded(16)));
    for await (const chunk of gunzip(reader, Promise.resolve(null))) parts.push(Buffer.from(chunk));
    return Buffer.concat(parts);
  };
  t.true((await byNode(packed)).equals(PLAIN.subarray(0, 200_000)));
  t.is((await byNode(Buffer.concat([packed, packed, Buffer.from('garbage')]))).length, 400_000);
  for (const place of [11, 1000, packed.length - 1]) {
    const error = await t.throwsAsync(byNode(packed.subarray(0, place)), { instanceOf: ImageError });
    t.is(error?.kind, 'corrupt');
  }
  const spoilt = Buffer.from(packed);
  spoilt[packed.length - 5] ^= 1;
  await t.throwsAsync(byNode(spoilt), { instanceOf: ImageError });
  const named = Buffer.concat([packed.subarray(0, 3), Buffer.from([0x1c]), packed.subarray(4, 10)]);
  const fields = Buffer.from('0300616263646973632e726177006d7920646973630a00', 'hex');
  t.is((await byNode(Buffer.concat([named, fields, packed.subarray(10)]))).length, 200_000);
});

test('many gzip members are unpacked, as bgzip makes them', async (t) => {
  const member = pack(t, PACKERS[0], PLAIN.subarray(0, 2000));
  if (member === null) return;
  const found = await unpacked(Buffer.concat(Array.from({ length: 300 }, () => member)), 9);
  t.is(found.length, 600_000);
  t.true(found.subarray(598_000).equals(PLAIN.subarray(0, 2000)));
});

test('bytes behind a bzip2, xz or zstd stream that are none of its kind are an error', async (t) => {
  for (const packer of PACKERS.filter(({ packing }) => packing !== 'gzip')) {
    const packed = pack(t, packer, PLAIN.subarray(0, 1000));
    if (packed === null) return;
    const error = await t.throwsAsync(unpacked(Buffer.concat([packed, Buffer.from('garbage!')]), 10));
    t.true(error instanceof ImageError, packer.program);
  }
});

test('xz streams may have padding between and behind them', async (t) => {
  const packed = pack(t, PACKERS[4], PLAIN.subarray(0, 1000));
  if (packed === null) return;
  const found = await unpacked(Buffer.concat([packed, Buffer.alloc(8), packed, Buffer.alloc(4)]), 11);
  t.true(found.equals(Buffer.concat([PLAIN.subarray(0, 1000), PLAIN.subarray(0, 1000)])));
});

test('zstd streams that want more memory than the zstd program gives are refused', async (t) => {
  const header = Buffer.from('28b52ffd00b0', 'hex'); // a window of 4 GiB
  const error = await t.throwsAsync(unpacked(Buffer.concat([header, Buffer.alloc(100)]), 12), {
    instanceOf: ImageError,
  });
  t.is(error?.kind, 'unsupported');
});

test('a disk that is not packed passes as it is', async (t) => {
  const disk = sample(100_000);
  disk.fill(0, 0, 512);
  t.is(detectPacking(disk), null);
  t.true((await unpacked(disk, 13)).equals(disk));
  t.is((await unpacked(Buffer.alloc(0), 14)).length, 0);
  t.is((await unpacked(Buffer.from([0x1f, 0x8b]), 15)).length, 2);
});
