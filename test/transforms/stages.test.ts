import { createHash } from 'node:crypto';
import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { type Extent, ExtentBatch, extent } from '../../lib/core/extent.ts';
import { walkExtents } from '../../lib/sources/extents.ts';
import { align } from '../../lib/transforms/align.ts';
import { compress } from '../../lib/transforms/compress.ts';
import { fillZeros } from '../../lib/transforms/fill-zeros.ts';
import { hash } from '../../lib/transforms/hash.ts';
import { offload } from '../../lib/transforms/offload.ts';
import { order } from '../../lib/transforms/order.ts';
import { pair } from '../../lib/transforms/pair.ts';
import { progress } from '../../lib/transforms/progress.ts';
import { rate } from '../../lib/transforms/rate.ts';
import { slice } from '../../lib/transforms/slice.ts';
import { sparseDetect } from '../../lib/transforms/sparse-detect.ts';
import { bare, bytesOf, fakeDisk, loaded, through, told } from '../support/disks.ts';
import { pattern, Random } from '../support/model.ts';

/** Bytes with data in the blocks of 4 KiB that have a `#`. */
function blocks(text: string): Buffer {
  return Buffer.concat([...text].map((each) => (each === '#' ? pattern(4096, 3) : Buffer.alloc(4096))));
}

test('runs of zeros become zero extents, and what they part stays as it was', async (t) => {
  const content = blocks('.##..#');
  const out = await through([loaded(0, content)], sparseDetect());
  t.deepEqual(told(out), ['zero 0+4096', 'data 4096+8192', 'zero 12288+8192', 'data 20480+4096']);
  t.true(bytesOf(out, content.length).equals(content));
});

test('a run shorter than asked for stays data, unless it touches the edge', async (t) => {
  const out = await through([loaded(0, blocks('..##..##......##..'))], sparseDetect({ size: 12288 }));
  t.deepEqual(told(out), ['zero 0+8192', 'data 8192+24576', 'zero 32768+24576', 'data 57344+8192', 'zero 65536+8192']);
});

test('zeros are looked for in aligned blocks of the guest', async (t) => {
  const content = Buffer.concat([Buffer.alloc(6144), Buffer.alloc(2048, 1)]);
  t.deepEqual(told(await through([loaded(2048, content)], sparseDetect())), ['zero 2048+6144', 'data 8192+2048']);
  const late = Buffer.concat([Buffer.alloc(2048, 1), Buffer.alloc(6144)]);
  t.deepEqual(told(await through([loaded(2048, late)], sparseDetect())), ['data 2048+2048', 'zero 4096+6144']);
});

test('a larger unit of the target looks for zeros in its own blocks', async (t) => {
  const out = await through([loaded(0, blocks('#.......#...####'))], sparseDetect({ unit: 16384 }));
  t.deepEqual(told(out), ['data 0+16384', 'zero 16384+16384', 'data 32768+32768']);
});

test('size 0 leaves zeros alone', async (t) => {
  t.deepEqual(told(await through([loaded(0, Buffer.alloc(8192))], sparseDetect({ size: 0 }))), ['data 0+8192']);
});

test('data are filled up to units with the zeros around them', async (t) => {
  const out = await through(
    [bare(0, 100, 'zero'), loaded(100, Buffer.alloc(50, 7)), bare(150, 106, 'zero'), bare(256, 512, 'unallocated')],
    align(256),
  );
  t.deepEqual(told(out), ['data 0+256', 'unallocated 256+512']);
  t.true(bytesOf(out, 256).equals(Buffer.concat([Buffer.alloc(100), Buffer.alloc(50, 7), Buffer.alloc(106)])));
});

test('aligning random disks changes no byte and leaves no piece of a unit', async (t) => {
  const random = new Random(11);
  for (let round = 0; round < 50; round += 1) {
    const batches: ExtentBatch[] = [];
    let at = 0;
    for (let index = 0; index < 40; index += 1) {
      const length = 1 + random.below(300);
      const payload = Buffer.alloc(length, 1 + random.below(255));
      // What is released may be overwritten at once, as a pool would.
      const release = () => void payload.fill(0xaa);
      const kind = random.pick(['data', 'zero', 'unallocated'] as const);
      batches.push(kind === 'data' ? loaded(at, payload, release) : bare(at, length, kind));
      at += length;
    }
    const expected = bytesOf(batches, at);
    const out = Buffer.alloc(at);
    let next = 0;
    const { mapBatches } = await import('../../lib/core/streams.ts');
    await through(
      batches,
      align(128),
      mapBatches((batch) => {
        for (const { kind, offset, length, payload } of batch) {
          t.is(offset, next);
          next = offset + length;
          if (kind === 'data') t.true(offset % 128 === 0 && (next % 128 === 0 || next === at));
          payload?.copy(out, offset);
        }
        batch.release();
        return null;
      }),
    );
    t.is(next, at);
    t.true(out.equals(expected));
  }
});

test('what is left to the backing file is not filled with zeros', async (t) => {
  const batches = [bare(0, 100, 'unallocated'), loaded(100, Buffer.alloc(156, 7))];
  t.deepEqual(told(await through(batches, align(256, { keepUnallocated: true }))), [
    'unallocated 0+100',
    'data 100+156',
  ]);
});

const HALVES = {
  unit: 256,
  compress: async (plain: Buffer) => (plain[0] === 1 ? plain.subarray(0, 10) : null),
};

test('whole units are compressed where that helps, and the buffer is released when nothing needs it', async (t) => {
  let released = 0;
  const all = loaded(0, Buffer.alloc(512, 1), () => {
    released += 1;
  });
  const some = loaded(512, Buffer.concat([Buffer.alloc(256, 1), Buffer.alloc(256, 2)]), () => {
    released += 1;
  });
  const out = await through([all, some], compress(HALVES));
  t.deepEqual(
    out.flatMap(({ extents }) => extents.map(({ packed, length, payload }) => [packed, length, payload?.length])),
    [
      [true, 256, 10],
      [true, 256, 10],
      [true, 256, 10],
      [false, 256, 256],
    ],
  );
  t.is(released, 1);
});

test('a part of a unit is compressed only at the end of the disk', async (t) => {
  const packed = async (size?: number) => {
    const [batch] = await through([loaded(256, Buffer.alloc(100, 1))], compress(HALVES, { size }));
    return batch.extents[0].packed;
  };
  t.true(await packed(356));
  t.false(await packed(400));
  t.false(await packed());
});

test('a compressor that fails fails the pipeline', async (t) => {
  const failing = { unit: 256, compress: () => Promise.reject(new ImageError('io', 'no')) };
  await t.throwsAsync(through([loaded(0, Buffer.alloc(512, 1))], compress(failing)), { message: 'no' });
});

test('batches that come in any order leave in guest order', async (t) => {
  const batches = new Random(5).shuffled(Array.from({ length: 50 }, (_, index) => bare(index * 10, 10, 'zero')));
  const offsets = (await through(batches, order())).map(({ offset }) => offset);
  t.deepEqual(
    offsets,
    Array.from({ length: 50 }, (_, index) => index * 10),
  );
});

test('a batch that is missing, or comes twice, is an error', async (t) => {
  await t.throwsAsync(through([bare(0, 10, 'zero'), bare(20, 10, 'zero')], order()), { message: /offset 10/ });
  await t.throwsAsync(through([bare(0, 10, 'zero'), bare(0, 10, 'zero')], order()), { message: /offset 0/ });
  const waiting = Array.from({ length: 5 }, (_, index) => loaded(10 + index * 100, Buffer.alloc(100)));
  await t.throwsAsync(through(waiting, order({ limit: 300 })), { message: /missing/ });
});

test('a slice keeps its range and moves it', async (t) => {
  const batches = () => [loaded(0, pattern(100, 1)), bare(100, 50, 'zero'), loaded(150, pattern(100, 2))];
  const kept = await through(batches(), slice({ offset: 40, length: 120 }));
  t.deepEqual(told(kept), ['data 40+60', 'zero 100+50', 'data 150+10']);
  const moved = await through(batches(), slice({ offset: 40, length: 120, to: 0 }));
  t.deepEqual(told(moved), ['data 0+60', 'zero 60+50', 'data 110+10']);
  const whole = bytesOf(batches(), 250);
  t.true(bytesOf(moved, 120).equals(whole.subarray(40, 160)));
});

test('zeros are filled in as data, but not what is left to a backing file', async (t) => {
  const batches = () => [loaded(0, pattern(10, 1)), bare(10, 3 << 20, 'zero'), bare(10 + (3 << 20), 7, 'unallocated')];
  const out = await through(batches(), fillZeros());
  t.true(
    out.every(({ extents }) =>
      extents.every(({ kind, payload, length }) => kind === 'data' && payload?.length === length),
    ),
  );
  t.true(out.every(({ offset, end }) => end - offset <= 2 << 20));
  t.is(out[out.length - 1].end, 17 + (3 << 20));
  const kept = await through(batches(), fillZeros({ keepUnallocated: true }));
  t.is(kept[kept.length - 1].extents[0].kind, 'unallocated');
});

test('hashing a disk is hashing its bytes, zeros included', async (t) => {
  const batches = [loaded(0, pattern(1000, 1)), bare(1000, 200_000, 'zero'), bare(201_000, 10, 'unallocated')];
  const expected = createHash('sha256').update(bytesOf(batches, 201_010)).digest('hex');
  const stage = hash('sha256');
  await through(batches, stage);
  t.is(stage.digest(), expected);
  await t.throwsAsync(through([bare(0, 10, 'data')], hash('sha256')), { message: /loaded/ });
});

test('progress rises to the end and passes everything', async (t) => {
  const seen: [number, number][] = [];
  await through(
    [bare(10, 10, 'zero'), bare(0, 10, 'zero')],
    progress(20, (done, total) => void seen.push([done, total])),
  );
  t.deepEqual(seen, [
    [10, 20],
    [20, 20],
  ]);
});

test('a rate holds payload back for as long as it takes, and nothing else', async (t) => {
  const start = performance.now();
  await through(
    [bare(0, 1 << 40, 'zero'), loaded(1 << 20, Buffer.alloc(1000)), loaded(2 << 20, Buffer.alloc(1))],
    rate(10_000),
  );
  t.true(performance.now() - start >= 95);
});

test('a stage that waits for its rate can be destroyed at once', async (t) => {
  const controller = new AbortController();
  const { pipeline, readableFrom } = await import('../../lib/core/streams.ts');
  async function* input() {
    for (let at = 0; ; at += 10) yield loaded(at, Buffer.alloc(10));
  }
  const running = pipeline(readableFrom(input()), rate(0.001), { signal: controller.signal });
  setTimeout(() => controller.abort(), 10);
  t.is(((await t.throwsAsync(running)) as ImageError).kind, 'aborted');
});

test('two maps are walked side by side, cut at the boundaries of both', async (t) => {
  const left = fakeDisk(
    [
      ['data', 10],
      ['zero', 20],
      ['data', 30],
    ],
    { perMap: 1 },
  );
  const right = fakeDisk([
    ['zero', 25],
    ['data', 15],
    ['zero', 5],
  ]);
  const seen: string[] = [];
  for await (const pairs of pair(walkExtents(left), walkExtents(right))) {
    for (const { left: a, right: b, leftEnd, rightEnd } of pairs) {
      t.is(a.offset, b.offset);
      t.is(a.length, b.length);
      seen.push(`${a.offset}+${a.length} ${a.kind}<${leftEnd} ${b.kind}<${rightEnd}`);
    }
  }
  t.deepEqual(seen, [
    '0+10 data<10 zero<25',
    '10+15 zero<30 zero<25',
    '25+5 zero<30 data<40',
    '30+10 data<60 data<40',
    '40+5 data<60 zero<45',
  ]);
});

test('what the kernel copies needs no loading, and where it stops the rest is passed on', async (t) => {
  const host = fakeDisk([['data', 100]]);
  const data: Extent = { ...extent(0, 100, 'data'), host, hostOffset: 7 };
  const calls: number[][] = [];
  const target = {
    copyFrom: async (offset: number, _host: unknown, hostOffset: number, length: number) => {
      calls.push([offset, hostOffset, length]);
      return calls.length === 1 ? 60 : 0;
    },
  };
  let copied = 0;
  const batch = new ExtentBatch([data, { ...extent(100, 10, 'data'), host, hostOffset: 107 }, extent(110, 5, 'zero')]);
  const out = await through(
    [batch],
    offload(target, (bytes) => {
      copied += bytes;
    }),
  );
  t.deepEqual(told(out), ['data 60+40', 'data 100+10', 'zero 110+5']);
  t.is(out[0].extents[0].hostOffset, 67);
  t.deepEqual(calls, [
    [0, 7, 100],
    [60, 67, 40],
  ]);
  t.is(copied, 60);
});
