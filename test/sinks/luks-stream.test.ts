import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { createLuksStream } from '../../lib/sinks/luks/stream.ts';
import { createGate } from '../../lib/sources/gate.ts';
import { openLuks } from '../../lib/sources/luks/index.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { SequentialStorage } from '../../lib/storage/sequential.ts';
import { Random } from '../support/model.ts';

const secrets = new Map([['s', 'open sesame']]);
const OPTIONS = { 'key-secret': 's', 'iter-time': 10 };

/** A pipe that keeps what it is given, and fails at one write. */
class Pipe extends SequentialStorage {
  readonly writable = true;
  readonly chunks: Buffer[] = [];
  readonly #failsAt: number;
  closed = false;

  constructor(failsAt = Number.POSITIVE_INFINITY) {
    super('pipe');
    this.#failsAt = failsAt;
  }

  override async write(offset: number, buffer: Buffer): Promise<void> {
    if (offset !== this.passed) throw this.refuse('write', offset);
    if (this.chunks.length === this.#failsAt) throw new ImageError('no-space', 'No space left on device');
    this.passed += buffer.length;
    this.chunks.push(Buffer.from(buffer));
  }

  async close(): Promise<void> {
    this.closed = true;
  }

  /** The disk in the container that was written. */
  async disk(): Promise<Buffer> {
    const storage = memoryStorage('luks', Buffer.concat(this.chunks));
    const common = { writable: false, cache: 'writeback', gate: createGate(), secrets } as const;
    const source = await openLuks({ ...common, storage, options: { 'key-secret': 's' } });
    const disk = Buffer.alloc(source.size);
    await source.read(0, disk);
    return disk;
  }
}

const BYTES = new Random(11).bytes(4 * 1024 * 1024);

test('writes of any length follow each other; gaps, zeros and the rest of the disk are zeros', async (t) => {
  const pipe = new Pipe();
  const target = await createLuksStream({ storage: pipe, size: 6_000_000, options: OPTIONS, secrets });
  const expected = Buffer.alloc(6_000_128);
  const random = new Random(3);
  for (let at = 0; at < BYTES.length; ) {
    const part = BYTES.subarray(at, at + 1 + random.below(700_000));
    if (random.below(3) === 0) await target.zero(at, part.length);
    else if (random.below(3) > 0) {
      part.copy(expected, at);
      await target.write(at, part);
    }
    at += part.length;
  }
  await target.close();
  t.true(pipe.closed);
  t.is(target.size, expected.length);
  t.true((await pipe.disk()).equals(expected));
});

test('memory that was handed over may be used again at once', async (t) => {
  const pipe = new Pipe();
  const target = await createLuksStream({ storage: pipe, size: null, options: OPTIONS, secrets });
  const buffer = Buffer.alloc(1_500_000);
  for (let value = 0; value < 4; value += 1) {
    buffer.fill(value);
    await target.write(value * buffer.length, buffer);
  }
  await target.close();
  const disk = await pipe.disk();
  for (let value = 0; value < 4; value += 1) {
    t.true(
      disk.subarray(value * buffer.length, (value + 1) * buffer.length).equals(Buffer.alloc(buffer.length, value)),
    );
  }
});

test('writes that go back, or beyond the end, are refused', async (t) => {
  const target = await createLuksStream({ storage: new Pipe(), size: 4096, options: OPTIONS, secrets });
  await target.write(512, Buffer.alloc(512));
  await t.throwsAsync(target.write(0, Buffer.alloc(512)), { instanceOf: ImageError });
  await t.throwsAsync(target.zero(4096, 512), { instanceOf: ImageError });
  await target.abort();
  await t.throwsAsync(target.write(1024, Buffer.alloc(512)), { instanceOf: ImageError });
});

test('a pipe that fails at any write fails the whole with its error', async (t) => {
  for (let failsAt = 1; failsAt <= 4; failsAt += 1) {
    const pipe = new Pipe(failsAt);
    const target = await createLuksStream({ storage: pipe, size: null, options: OPTIONS, secrets });
    const error = await t.throwsAsync(
      (async () => {
        for (let at = 0; at < BYTES.length; at += 500_000) await target.write(at, BYTES.subarray(at, at + 500_000));
        await target.close();
      })(),
      { instanceOf: ImageError },
    );
    t.is(error?.message, 'No space left on device');
    await target.abort();
    t.true(pipe.closed);
    t.is(pipe.chunks.length, failsAt);
  }
  await t.throwsAsync(createLuksStream({ storage: new Pipe(0), size: null, options: OPTIONS, secrets }), {
    message: 'No space left on device',
  });
});
