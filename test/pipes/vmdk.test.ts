import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { vmdk } from '../../lib/formats/vmdk.ts';
import { StreamImpossible } from '../../lib/sinks/stream.ts';
import type { Target } from '../../lib/sinks/target.ts';
import { ForwardImpossible } from '../../lib/sources/forward.ts';
import type { ForwardSource } from '../../lib/sources/source.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { PipeInput } from '../../lib/storage/pipe-input.ts';
import type { PipeOutput } from '../../lib/storage/pipe-output.ts';
import { chunked, seeded } from '../support/chunked.ts';
import { keptPipe, readForward } from '../support/kept-pipe.ts';
import { pattern, Random } from '../support/model.ts';
import { closedGate, closedRequest, createRequest } from '../support/requests.ts';

const GRAIN = 64 * 1024;

function begin(storage: PipeOutput, size: number | null, options = {}): Promise<Target> {
  const all = { subformat: 'streamOptimized', ...options };
  const request = { ...createRequest(storage, 0, all), size, gate: closedGate, plan: null, compress: false };
  return vmdk.createStream?.(request as never) as Promise<Target>;
}

async function openForward(bytes: Buffer): Promise<ForwardSource> {
  return vmdk.openForward?.(
    closedRequest(new PipeInput('in', chunked(bytes, seeded(bytes.length), 100_000))),
  ) as Promise<ForwardSource>;
}

async function readForwardOf(bytes: Buffer): Promise<Buffer> {
  return readForward(await openForward(bytes));
}

async function readAtRandom(bytes: Buffer): Promise<Buffer> {
  const source = await vmdk.openSource(closedRequest(memoryStorage('in', bytes)));
  const all = Buffer.alloc(source.size);
  await source.read(0, all);
  return all;
}

/** A disk whose runs begin and end anywhere, and the calls that write it: as pieces of grains, too. */
async function randomStream(seed: number, options = {}): Promise<{ disk: Buffer; stream: Buffer }> {
  const random = new Random(seed);
  const disk = Buffer.alloc(512 * (1 + random.below(4000)));
  const { output, bytes } = keptPipe();
  const target = await begin(output, disk.length, options);
  for (let at = 0; at < disk.length; ) {
    const length = Math.min(disk.length - at, 1 + random.below(random.pick([5000, 100_000, 400_000])));
    const kind = random.below(4);
    const run = kind === 0 ? random.bytes(length) : pattern(length, kind);
    if (kind === 3) await target.zero(at, length);
    if (kind < 2) {
      run.copy(disk, at);
      await target.write(at, run);
      // The caller may use its buffer again.
      run.fill(0xee);
    }
    at += length;
  }
  await target.close();
  return { disk, stream: bytes() };
}

test('what goes into a pipe comes out of one, and is an image for whoever seeks', async (t) => {
  for (let seed = 1; seed <= 12; seed += 1) {
    const { disk, stream } = await randomStream(seed, seed % 2 === 0 ? { zeroed_grain: true } : {});
    t.true((await readForwardOf(stream)).equals(disk), `forward, seed ${seed}`);
    t.true((await readAtRandom(stream)).equals(disk), `at random, seed ${seed}`);
  }
});

test('a stream that is cut off anywhere is never taken for a whole disk', async (t) => {
  const { stream } = await randomStream(3);
  const random = new Random(1);
  const cuts = [0, 1, 511, 512, 65_535, 65_536, stream.length - 512, stream.length - 513, stream.length - 1024];
  for (let round = 0; round < 30; round += 1) cuts.push(random.below(stream.length));
  for (const cut of cuts) {
    await t.throwsAsync(readForwardOf(stream.subarray(0, cut)), { instanceOf: ImageError }, `${cut} bytes`);
  }
});

test('a grain that is spoilt, missing or out of order is noticed', async (t) => {
  const { output, bytes } = keptPipe();
  const target = await begin(output, 8 * GRAIN);
  for (let grain = 0; grain < 8; grain += 1) await target.write(grain * GRAIN, new Random(grain).bytes(GRAIN));
  await target.close();
  const stream = bytes();
  const first = 128 * 512;
  const length = Math.ceil((12 + stream.readUInt32LE(first + 8)) / 512) * 512;
  const spoilt = Buffer.from(stream);
  spoilt[first + 20_000] ^= 1;
  await t.throwsAsync(readForwardOf(spoilt), { message: /damaged/ });
  const missing = Buffer.concat([stream.subarray(0, first), stream.subarray(first + length)]);
  await t.throwsAsync(readForwardOf(missing), { message: /7 grains where its tables name 8/ });
  const second = stream.subarray(first + length, first + 2 * length);
  const swapped = Buffer.concat([
    stream.subarray(0, first),
    second,
    stream.subarray(first, first + length),
    stream.subarray(first + 2 * length),
  ]);
  await t.throwsAsync(readForwardOf(swapped), { message: /not in guest order/ });
});

test('what cannot be streamed is told before anything is consumed or written', async (t) => {
  const { output, bytes } = keptPipe();
  await t.throwsAsync(begin(output, null), { instanceOf: StreamImpossible });
  await t.throwsAsync(begin(output, GRAIN, { subformat: 'monolithicSparse' }), { instanceOf: StreamImpossible });
  await t.throwsAsync(begin(output, GRAIN, { subformat: 'monolithicFlat' }), { message: /several files/ });
  t.is(bytes().length, 0);
  const storage = memoryStorage('out');
  const made = { storage, size: GRAIN, options: {}, backing: null, cache: 'unsafe', gate: closedGate } as never;
  await (await vmdk.create?.(made))?.close();
  await t.throwsAsync(openForward(storage.bytes()), { instanceOf: ForwardImpossible });
});

test('writes to a pipe must come in order', async (t) => {
  const { output } = keptPipe();
  const target = await begin(output, 4 * GRAIN);
  await target.write(GRAIN, Buffer.alloc(GRAIN, 1));
  await t.throwsAsync(target.write(0, Buffer.alloc(GRAIN)), { message: /in order/ });
  await target.abort();
});
