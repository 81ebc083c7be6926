import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { ExtentBatch, extent } from '../../lib/core/extent.ts';
import { pipeline, readableFrom } from '../../lib/core/streams.ts';
import { type TargetWritableOptions, targetWritable } from '../../lib/sinks/writable.ts';
import { bare, type FakeTarget, fakeTarget, loaded } from '../support/disks.ts';
import { pattern } from '../support/model.ts';

async function write(target: FakeTarget, batches: ExtentBatch[], options?: TargetWritableOptions) {
  async function* input() {
    yield* batches;
  }
  await pipeline(readableFrom(input()), targetWritable(target, options));
}

function data(offset: number, payload: Buffer) {
  const each = extent(offset, payload.length, 'data');
  each.payload = payload;
  return each;
}

test('neighbours in guest and memory are one write; zeros of a fresh target are none', async (t) => {
  const target = fakeTarget(1000);
  const memory = pattern(300, 1);
  const batch = new ExtentBatch([
    data(0, memory.subarray(0, 100)),
    data(100, memory.subarray(100, 200)),
    extent(200, 50, 'zero'),
    data(250, memory.subarray(200, 300)),
    extent(350, 650, 'unallocated'),
  ]);
  await write(target, [batch]);
  t.deepEqual(target.log.sort(), ['write 0 200', 'write 250 100']);
  t.true(target.bytes.subarray(0, 200).equals(memory.subarray(0, 200)));
  t.is(target.state, 'closed');
});

test('neighbours that lie apart in memory are not joined', async (t) => {
  const target = fakeTarget(20);
  await write(target, [new ExtentBatch([data(0, Buffer.alloc(10, 1)), data(10, Buffer.alloc(10, 2))])]);
  t.true(target.bytes.equals(Buffer.concat([Buffer.alloc(10, 1), Buffer.alloc(10, 2)])));
});

test('zeros are written where the target does not read as zeros, and what is unallocated too unless told', async (t) => {
  const batches = () => [bare(0, 10, 'zero'), bare(10, 10, 'unallocated')];
  const all = fakeTarget(30, { readsAsZero: false });
  await write(all, batches());
  t.deepEqual(all.log, ['zero 0 10', 'zero 10 10']);
  const kept = fakeTarget(30, { readsAsZero: false });
  await write(kept, batches(), { unallocated: 'skip' });
  t.deepEqual(kept.log, ['zero 0 10']);
  const known = fakeTarget(30, { readsAsZero: false });
  await write(known, batches(), { skipZeros: true });
  t.deepEqual(known.log, []);
});

test('packed extents go to writeCompressed with their guest length', async (t) => {
  const log: unknown[] = [];
  const target = fakeTarget(1000, {
    writeCompressed: async (offset, length, packed) => void log.push([offset, length, packed.toString()]),
  });
  await write(target, [new ExtentBatch([{ ...data(0, Buffer.from('xy')), length: 512, packed: true }])]);
  t.deepEqual(log, [[0, 512, 'xy']]);
  const without = fakeTarget(1000);
  const batch = new ExtentBatch([{ ...data(0, Buffer.from('xy')), length: 512, packed: true }]);
  await t.throwsAsync(write(without, [batch]), { message: /Compression not supported/ });
  t.is(without.state, 'aborted');
});

test('several batches are written at once, up to the window', async (t) => {
  const batches = () => Array.from({ length: 30 }, (_, index) => loaded(index * 10, Buffer.alloc(10, index)));
  const target = fakeTarget(300);
  await write(target, batches(), { window: 5 });
  t.is(target.mostAtOnce, 5);
});

test('a sequential target gets one operation at a time, in order', async (t) => {
  const target = fakeTarget(300, { sequential: true });
  const batches = Array.from(
    { length: 10 },
    (_, index) => new ExtentBatch([data(index * 30, Buffer.alloc(10, 1)), data(index * 30 + 20, Buffer.alloc(10, 1))]),
  );
  await write(target, batches, { window: 8 });
  t.is(target.mostAtOnce, 1);
  t.deepEqual(
    target.log.map((line) => Number(line.split(' ')[1])),
    batches.flatMap((b) => b.extents.map((e) => e.offset)),
  );
});

test('a failed write names the guest offset, and the target is given up with nothing in flight', async (t) => {
  const target = fakeTarget(1000);
  target.beforeWrite = async (offset) => {
    await new Promise((resolve) => setTimeout(resolve, offset === 50 ? 1 : 20));
    if (offset === 50) throw new ImageError('no-space', 'No space left on device', { code: 'ENOSPC' });
  };
  const batches = Array.from({ length: 50 }, (_, index) => loaded(index * 10, Buffer.alloc(10, index)));
  const error = (await t.throwsAsync(write(target, batches))) as ImageError;
  t.is(error.message, 'error while writing at byte 50: No space left on device');
  t.is(error.kind, 'no-space');
  t.is(error.code, 'ENOSPC');
  t.is(target.state, 'aborted');
});

test('a failed write ends a pipeline whose input is silent', async (t) => {
  const target = fakeTarget(1000);
  target.beforeWrite = () => {
    throw new ImageError('io', 'Input/output error');
  };
  let end: () => void = () => {};
  async function* input() {
    yield loaded(0, Buffer.alloc(10, 1));
    await new Promise<void>((resolve) => {
      end = resolve;
    });
  }
  const running = pipeline(readableFrom(input()), targetWritable(target));
  target.abort = async () => {
    target.state = 'aborted';
    end();
  };
  await t.throwsAsync(running, { message: 'error while writing at byte 0: Input/output error' });
});

test('a failed close is a failure, after which the target is given up', async (t) => {
  const target = fakeTarget(10, { close: () => Promise.reject(new ImageError('io', 'close failed')) });
  await t.throwsAsync(write(target, [loaded(0, Buffer.alloc(10))]), { message: 'close failed' });
  t.is(target.state, 'aborted');
});

test('a target that shall stay open does', async (t) => {
  const target = fakeTarget(10);
  await write(target, [loaded(0, Buffer.alloc(10))], { close: false });
  t.is(target.state, 'open');
});

test('batches are released once written, and data without a payload are refused', async (t) => {
  let released = 0;
  await write(fakeTarget(10), [
    loaded(0, Buffer.alloc(10), () => {
      released += 1;
    }),
  ]);
  t.is(released, 1);
  await t.throwsAsync(write(fakeTarget(10), [bare(0, 10, 'data')]), { message: /load\(\)/ });
});
