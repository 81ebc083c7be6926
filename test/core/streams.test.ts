import { Transform as NodeTransform } from 'node:stream';
import test from 'ava';
import { Writable } from 'streamx';
import { ImageError } from '../../lib/core/errors.ts';
import type { ExtentBatch } from '../../lib/core/extent.ts';
import { mapBatches, ParallelStage, pipeline, readableFrom } from '../../lib/core/streams.ts';
import { bare, through, told } from '../support/disks.ts';

async function* endless(state: { returned: boolean }): AsyncGenerator<ExtentBatch> {
  try {
    for (let at = 0; ; at += 10) {
      yield bare(at, 10, 'zero');
      // Without I/O a pipeline runs in microtasks alone, and no timer would ever fire.
      await new Promise((resolve) => setImmediate(resolve));
    }
  } finally {
    state.returned = true;
  }
}

function ten(): ExtentBatch[] {
  return Array.from({ length: 10 }, (_, index) => bare(index * 10, 10, 'zero'));
}

function swallow(): Writable {
  return new Writable({ write: (_batch, callback) => callback(null) });
}

/** Jobs end when they are told to, in any order. */
class Gated extends ParallelStage<ExtentBatch> {
  readonly started: number[] = [];
  readonly ended: number[] = [];
  readonly finish = new Map<number, (error?: Error) => void>();
  onStart: ((offset: number) => void) | null = null;

  protected override jobs(batch: ExtentBatch) {
    return [batch];
  }
  protected override weigh() {
    return 1;
  }
  protected override work(batch: ExtentBatch): Promise<ExtentBatch> {
    this.started.push(batch.offset);
    return new Promise((resolve, reject) => {
      this.finish.set(batch.offset, (error) => {
        this.ended.push(batch.offset);
        if (error) reject(error);
        else resolve(batch);
      });
      this.onStart?.(batch.offset);
    });
  }
}

function tick(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 5));
}

test('a pipeline passes batches through streamx and Node stages alike', async (t) => {
  let seen = 0;
  const node = new NodeTransform({
    objectMode: true,
    transform(batch, _encoding, callback) {
      seen += 1;
      callback(null, batch);
    },
  });
  const out = await through(
    ten(),
    mapBatches((batch) => batch),
    node,
    mapBatches(async (batch) => batch),
  );
  t.deepEqual(told(out), told(ten()));
  t.is(seen, 10);
});

for (const place of ['first', 'last'] as const) {
  test(`a failing Node stage (${place}) destroys every stage and ends the input`, async (t) => {
    const state = { returned: false };
    const failing = new NodeTransform({
      objectMode: true,
      transform: (_batch, _encoding, callback) => callback(new Error('mine')),
    });
    const other = mapBatches((batch) => batch);
    const sink = swallow();
    const stages = place === 'first' ? [failing, other] : [other, failing];
    await t.throwsAsync(pipeline(endless(state), ...stages, sink), { message: 'mine' });
    t.true(state.returned);
    t.true(sink.destroyed && other.destroyed && failing.destroyed);
  });
}

test('what a stage throws is what the pipeline rejects with', async (t) => {
  const mine = new ImageError('corrupt', 'mine');
  for (const stage of [
    mapBatches(() => {
      throw mine;
    }),
    mapBatches(async () => {
      throw mine;
    }),
  ]) {
    t.is(await t.throwsAsync(pipeline(endless({ returned: false }), stage, swallow())), mine);
  }
});

test('an input that throws fails the pipeline with its error', async (t) => {
  async function* broken(): AsyncGenerator<ExtentBatch> {
    yield bare(0, 10, 'zero');
    throw new ImageError('io', 'broken');
  }
  const sink = swallow();
  await t.throwsAsync(
    pipeline(
      broken(),
      mapBatches((batch) => batch),
      sink,
    ),
    { message: 'broken' },
  );
  t.true(sink.destroyed);
});

test('an abort rejects with kind aborted, with the reason as its cause, and closes all stages', async (t) => {
  const controller = new AbortController();
  const state = { returned: false };
  const sink = swallow();
  const running = pipeline(
    endless(state),
    mapBatches((batch) => batch),
    sink,
    { signal: controller.signal },
  );
  setTimeout(() => controller.abort(new Error('enough')), 10);
  const error = await t.throwsAsync(running, { instanceOf: ImageError });
  t.is((error as ImageError).kind, 'aborted');
  t.is(((error as ImageError).cause as Error).message, 'enough');
  t.true(state.returned);
  t.true(sink.destroyed);
});

test('a signal that fired before the pipeline began stops it too', async (t) => {
  const running = pipeline(endless({ returned: false }), swallow(), { signal: AbortSignal.abort() });
  t.is(((await t.throwsAsync(running)) as ImageError).kind, 'aborted');
});

test('a pipeline may end in a transform', async (t) => {
  let seen = 0;
  const count = mapBatches((batch) => {
    seen += 1;
    return batch;
  });
  async function* input() {
    for (let index = 0; index < 100; index += 1) yield bare(index, 1, 'zero');
  }
  await pipeline(input(), count);
  t.is(seen, 100);
});

test('a parallel stage starts no more jobs than its window, and keeps the order of its input', async (t) => {
  const stage = new Gated({ tasks: 3 });
  const out: number[] = [];
  const sink = new Writable({
    write(batch, callback) {
      out.push((batch as ExtentBatch).offset);
      callback(null);
    },
  });
  const running = pipeline(readableFrom(asyncly(ten())), stage, sink);
  await tick();
  t.deepEqual(stage.started, [0, 10, 20]);
  stage.finish.get(20)?.();
  stage.finish.get(10)?.();
  await tick();
  t.deepEqual(out, []);
  // The two that are done hold their places: what waits for its turn is memory, too.
  t.deepEqual(stage.started, [0, 10, 20]);
  stage.onStart = (offset) => setImmediate(() => stage.finish.get(offset)?.());
  stage.finish.get(0)?.();
  await running;
  t.deepEqual(out, [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]);
});

test('an unordered parallel stage puts out what is done first', async (t) => {
  const stage = new Gated({ tasks: 3, ordered: false });
  const out: number[] = [];
  const sink = new Writable({
    write(batch, callback) {
      out.push((batch as ExtentBatch).offset);
      callback(null);
    },
  });
  const running = pipeline(readableFrom(asyncly(ten())), stage, sink);
  await tick();
  stage.finish.get(20)?.();
  await tick();
  t.deepEqual(out, [20]);
  t.deepEqual(stage.started, [0, 10, 20, 30]);
  stage.onStart = (offset) => setImmediate(() => stage.finish.get(offset)?.());
  for (const offset of [0, 10, 30]) stage.finish.get(offset)?.();
  await running;
  t.deepEqual(
    [...out].sort((a, b) => a - b),
    [0, 10, 20, 30, 40, 50, 60, 70, 80, 90],
  );
});

test('a failed job fails the pipeline only when the other jobs have ended', async (t) => {
  const stage = new Gated({ tasks: 3 });
  const running = pipeline(readableFrom(asyncly(ten())), stage, swallow());
  const failed = t.throwsAsync(running, { message: 'job' });
  await tick();
  stage.finish.get(10)?.(new Error('job'));
  await tick();
  t.false(stage.destroyed);
  stage.finish.get(0)?.();
  stage.finish.get(20)?.();
  await failed;
  t.deepEqual(stage.ended, [10, 0, 20]);
});

test('a parallel stage waits while its reader does not read', async (t) => {
  const stage = new Gated({ tasks: 2 });
  stage.onStart = (offset) => setImmediate(() => stage.finish.get(offset)?.());
  let go: () => void = () => {};
  const sink = new Writable({
    highWaterMark: 1,
    write(_batch, callback) {
      go = () => callback(null);
    },
  });
  async function* many() {
    for (let index = 0; index < 1000; index += 1) yield bare(index, 1, 'zero');
  }
  const running = pipeline(many(), stage, sink);
  await new Promise((resolve) => setTimeout(resolve, 50));
  t.true(stage.started.length < 40, `${stage.started.length} jobs started`);
  sink.destroy(new Error('stop'));
  go();
  await t.throwsAsync(running, { message: 'stop' });
});

async function* asyncly(batches: Iterable<ExtentBatch>): AsyncGenerator<ExtentBatch> {
  yield* batches;
}
