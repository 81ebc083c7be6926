import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { type Extent, extent } from '../../lib/core/extent.ts';
import { drivers } from '../../lib/formats/index.ts';
import { createQcow2Stream } from '../../lib/sinks/qcow2/stream.ts';
import { StreamImpossible } from '../../lib/sinks/stream.ts';
import type { ExtentPlan } from '../../lib/sinks/target.ts';
import { ForwardImpossible } from '../../lib/sources/forward.ts';
import { openImage } from '../../lib/sources/open.ts';
import { openQcow2Forward } from '../../lib/sources/qcow2/forward.ts';
import { openRawForward } from '../../lib/sources/raw-forward.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { PipeInput } from '../../lib/storage/pipe-input.ts';
import { chunked, seeded } from '../support/chunked.ts';
import { keptPipe, readForward } from '../support/kept-pipe.ts';
import { closedRequest } from '../support/requests.ts';

function planOf(extents: Extent[]): ExtentPlan {
  return async function* plan() {
    for (const each of extents) yield [each];
  };
}

/** A disk of random runs, and what its map says: often more than whole clusters, often less. */
function randomDisk(seed: number) {
  const random = seeded(seed);
  const bytes = Buffer.alloc(512 * Math.floor(1 + random() * 3000));
  const extents: Extent[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = Math.min(bytes.length - at, 512 * Math.ceil(random() * 200));
    const kind = (['data', 'zero', 'unallocated'] as const)[Math.floor(random() * 3)];
    extents.push(extent(at, length, kind));
    if (kind === 'data') for (let index = 0; index < length; index += 7) bytes[at + index] = random() * 256;
    at += length;
  }
  return { bytes, extents, random };
}

async function streamed(disk: ReturnType<typeof randomDisk>, options: Record<string, string | number | boolean> = {}) {
  const { output, bytes } = keptPipe();
  const target = await createQcow2Stream({
    storage: output,
    size: disk.bytes.length,
    options,
    backing: null,
    plan: planOf(disk.extents),
    compress: false,
  });
  for (const { offset, length, kind } of disk.extents) {
    // In pieces, and sometimes with data told as zeros, as a search for zeros does.
    for (let at = offset; at < offset + length && kind === 'data'; ) {
      const end = Math.min(offset + length, at + 512 * Math.ceil(disk.random() * 100));
      const piece = disk.bytes.subarray(at, end);
      if (piece.every((byte) => byte === 0)) await target.zero(at, end - at);
      else await target.write(at, piece);
      at = end;
    }
  }
  await target.close();
  return bytes();
}

test('what is streamed as qcow2 reads the same forward and at random, for any map', async (t) => {
  for (let seed = 1; seed <= 40; seed += 1) {
    const disk = randomDisk(seed);
    const clusterSize = [512, 4096, 65536][seed % 3];
    const image = await streamed(disk, { cluster_size: clusterSize });
    const input = new PipeInput('in', chunked(image, disk.random, 100_000));
    t.true(
      (await readForward(await openQcow2Forward(closedRequest(input)))).equals(disk.bytes),
      `forward, seed ${seed}`,
    );
    const opened = await openImage('memory', { drivers: drivers(), storage: memoryStorage('memory', image) });
    const found = Buffer.alloc(disk.bytes.length);
    await opened.chain.read(0, found);
    await opened.close();
    t.true(found.equals(disk.bytes), `at random, seed ${seed}`);
    t.is(image.length % clusterSize, 0);
  }
});

test('a disk of 64 TiB with few clusters is laid out in memory and time that follow the clusters', async (t) => {
  const TIB = 2 ** 40;
  const extents = [extent(0, 65536, 'data'), extent(65536, 40 * TIB - 65536, 'unallocated')];
  extents.push(extent(40 * TIB, 65536, 'data'), extent(40 * TIB + 65536, 24 * TIB - 65536, 'unallocated'));
  const { output, bytes } = keptPipe();
  const target = await createQcow2Stream({
    storage: output,
    size: 64 * TIB,
    options: {},
    backing: null,
    plan: planOf(extents),
    compress: false,
  });
  await target.write(0, Buffer.alloc(65536, 1));
  await target.write(40 * TIB, Buffer.alloc(65536, 2));
  await target.close();
  t.true(bytes().length < 2 * 1024 * 1024);
  const opened = await openImage('memory', { drivers: drivers(), storage: memoryStorage('memory', bytes()) });
  const found = Buffer.alloc(10);
  await opened.chain.read(40 * TIB + 100, found);
  await opened.close();
  t.true(found.equals(Buffer.alloc(10, 2)));
});

test('writing what the map did not announce is an error, not a wrong image', async (t) => {
  const extents = [extent(0, 65536, 'data'), extent(65536, 65536, 'unallocated')];
  const make = (plan: ExtentPlan) =>
    createQcow2Stream({ storage: keptPipe().output, size: 131072, options: {}, backing: null, plan, compress: false });
  const surprised = await make(planOf(extents));
  await t.throwsAsync(surprised.write(65536, Buffer.alloc(512, 1)), { instanceOf: ImageError });
  const backwards = await make(planOf(extents));
  await backwards.write(4096, Buffer.alloc(512, 1));
  await t.throwsAsync(backwards.write(0, Buffer.alloc(512, 1)), { instanceOf: ImageError });
  let walks = 0;
  const changing: ExtentPlan = async function* () {
    walks += 1;
    yield walks === 1 ? extents : [extent(0, 131072, 'data')];
  };
  await t.throwsAsync(make(changing), { instanceOf: ImageError, message: /changed while it was read/ });
});

test('an image that cannot be streamed says so before a byte is written', async (t) => {
  const disk = randomDisk(1);
  const common = { size: disk.bytes.length, options: {}, backing: null, plan: planOf(disk.extents), compress: false };
  for (const change of [{ size: null }, { plan: null }, { compress: true }]) {
    const { output, bytes } = keptPipe();
    await t.throwsAsync(createQcow2Stream({ ...common, ...change, storage: output }), { instanceOf: StreamImpossible });
    t.is(bytes().length, 0);
  }
});

test('spoilt streams give an ImageError or are left to a file, and nothing worse', async (t) => {
  const disk = randomDisk(5);
  const image = await streamed(disk, { cluster_size: 512 });
  const random = seeded(99);
  const tableBytes = image.length / 4;
  let impossible = 0;
  for (let round = 0; round < 1500; round += 1) {
    const spoilt = Buffer.from(image);
    const place = Math.floor(random() * (round % 2 ? 112 : tableBytes));
    if (round % 3 === 0) spoilt.writeUInt32BE(Math.floor(random() * 2 ** 32), place);
    else spoilt[place] ^= 1 << (random() * 8);
    try {
      const input = new PipeInput('in', chunked(spoilt, random, 200_000));
      const source = await openQcow2Forward(closedRequest(input));
      // A size that was made larger is read as what it says: only as far as patience goes.
      let read = 0;
      for await (const batch of source.batches()) {
        read += batch.end - batch.offset;
        if (read > 2 ** 40) break;
      }
    } catch (error) {
      t.true(error instanceof ImageError, `round ${round}: ${String(error)}`);
      if (error instanceof ForwardImpossible) impossible += 1;
    }
  }
  t.true(impossible > 50);
});

test('a stream that is left to a file has not lost its head', async (t) => {
  const image = await streamed(randomDisk(7));
  image.writeUInt32BE(1, 32); // encrypted, it says
  const input = new PipeInput('in', chunked(image, seeded(1), 9000));
  await t.throwsAsync(openQcow2Forward(closedRequest(input)), { instanceOf: ForwardImpossible });
  const rest = Buffer.alloc(image.length + 1);
  t.is(await input.readNext(rest), image.length);
  t.true(rest.subarray(0, image.length).equals(image));
});

test('raw bytes from a pipe are whole sectors, with zeros behind an odd end', async (t) => {
  for (const length of [0, 1, 511, 512, 513, 1024 * 1024, 2 * 1024 * 1024 + 100]) {
    const bytes = Buffer.alloc(length, 3);
    const source = await openRawForward(
      closedRequest(new PipeInput('in', chunked(bytes, seeded(length + 1), 300_000))),
    );
    t.is(source.size, null);
    const found = await readForward(source);
    t.is(found.length, Math.ceil(length / 512) * 512);
    t.is(source.size, found.length);
    t.true(found.subarray(0, length).equals(bytes));
    t.true(found.subarray(length).every((byte) => byte === 0));
  }
});

test('a pipe that is given up fails instead of ending early', async (t) => {
  const { promise, reject } = withResolvers();
  const silent = async function* () {
    yield Buffer.alloc(1000, 1);
    await promise;
  };
  const stop = () => reject(new ImageError('aborted', 'The input was given up'));
  const source = await openRawForward(closedRequest(new PipeInput('in', silent(), stop)));
  const batches = source.batches()[Symbol.asyncIterator]();
  const pending = batches.next();
  await Promise.all([t.throwsAsync(pending, { instanceOf: ImageError }), batches.return?.()]);
});

function withResolvers(): { promise: Promise<never>; reject: (error: Error) => void } {
  let reject: (error: Error) => void = () => {};
  const promise = new Promise<never>((_, no) => {
    reject = no;
  });
  return { promise, reject };
}
