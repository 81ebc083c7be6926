import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { driverNamed } from '../../lib/formats/index.ts';
import type { Target } from '../../lib/sinks/target.ts';
import { type FaultPlan, type FaultyOperation, faultyStorage, type StorageEvent } from '../../lib/storage/faulty.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { DiskModel } from '../support/model.ts';
import {
  completeImage,
  createOn,
  firstForeign,
  isWrittenTwice,
  looksComplete,
  openOn,
  type Recipe,
  readDisk,
  recipes,
  writeSome,
} from './subjects.ts';

/** Failures after which nothing may be called a success. Zeroing and discarding may have another way round. */
const OPERATIONS: readonly FaultyOperation[] = ['write', 'truncate', 'flush', 'close', 'zero', 'read'];
/** More operations of a kind than any of these runs has: the search for the last one ends here. */
const MANY = 2000;

interface Attempt {
  error: unknown;
  bytes: Buffer;
  complete: boolean;
}

/** Makes an image as a verb would: create, write, close; give up where that fails. */
async function attemptCreate(recipe: Recipe, plan: FaultPlan): Promise<Attempt> {
  const memory = memoryStorage('out');
  let target: Target | null = null;
  let error: unknown = null;
  try {
    target = await createOn(faultyStorage(memory, plan), recipe);
    await writeSome(recipe, target, new DiskModel(recipe.size));
    await target.close();
  } catch (reason) {
    error = reason;
    await target?.abort().catch(() => {});
  }
  return { error, bytes: memory.bytes(), complete: await looksComplete(memory, recipe) };
}

/** What the disk reads as when all has gone well. */
async function disk(recipe: Recipe): Promise<Buffer> {
  const model = new DiskModel(recipe.size);
  const target = await createOn(memoryStorage('model'), { ...recipe, driver: driverNamed('raw'), options: {} });
  await writeSome(recipe, target, model);
  await target.abort();
  return model.bytes;
}

for (const recipe of recipes()) {
  for (const lasting of [false, true]) {
    test(`${recipe.title}: a new image fails with any ${lasting ? 'lasting' : 'single'} failure beneath it, and is not left as complete`, async (t) => {
      const expected = await disk(recipe);
      for (const operation of OPERATIONS) {
        let failures = 0;
        for (let nth = 1; nth < MANY; nth += 1) {
          const plan: FaultPlan = { faults: [{ operation, nth, code: 'EIO', lasting }] };
          const { error, bytes, complete } = await attemptCreate(recipe, plan);
          const what = `${operation} ${nth}`;
          if (error === null) {
            t.true((await readDisk(bytes, recipe)).equals(expected), what);
            // Past the last operation of the kind, or one that has another way round.
            if (!(await happens(recipe, operation, nth))) break;
            t.true(operation === 'zero' || operation === 'read', `${what} failed, and nobody noticed`);
            continue;
          }
          failures += 1;
          assertReason(t, error, 'EIO', what);
          // After close(2) has failed, all that there is to write has been written.
          if (operation !== 'close') t.false(complete, `${what}: recognised as complete`);
        }
        if (operation === 'write' || operation === 'close') t.true(failures > 0, operation);
      }
    });
  }

  test(`${recipe.title}: a new image on a disk that fills up at any byte fails, and is not left as complete`, async (t) => {
    const expected = await disk(recipe);
    const record: StorageEvent[] = [];
    const whole = await attemptCreate(recipe, { record });
    t.is(whole.error, null);
    // Not the file's length: most of it may be holes.
    const bytesWritten = record.reduce((sum, each) => sum + (each.operation === 'write' ? each.data.length : 0), 0);
    const step = Math.max(1, Math.floor(bytesWritten / 100));
    let failures = 0;
    for (let capacity = 0; capacity < bytesWritten; capacity += step) {
      const { error, bytes, complete } = await attemptCreate(recipe, { capacity });
      if (error === null) {
        t.true((await readDisk(bytes, recipe)).equals(expected), `${capacity}`);
        continue;
      }
      failures += 1;
      assertReason(t, error, 'ENOSPC', `${capacity} bytes`);
      t.is((error as ImageError).kind, 'no-space');
      t.false(complete, `${capacity} bytes: recognised as complete`);
    }
    t.true(failures > 10);
  });

  if (recipe.driver.openTarget !== undefined) existingTests(recipe);
}

/** Whether a run without failures gets as far as the nth operation of that kind. */
async function happens(recipe: Recipe, operation: FaultyOperation, nth: number): Promise<boolean> {
  let count = 0;
  const memory = memoryStorage('count');
  const counting = new Proxy(memory, {
    get(storage, key) {
      const value = Reflect.get(storage, key, storage);
      if (typeof value !== 'function') return value;
      const counts = key === operation || (operation === 'write' && key === 'writev');
      return (...given: unknown[]) => {
        if (counts) count += 1;
        return value.apply(storage, given);
      };
    },
  });
  const target = await createOn(counting, recipe);
  await writeSome(recipe, target, new DiskModel(recipe.size));
  await target.close();
  return count >= nth;
}

function assertReason(t: import('ava').ExecutionContext, error: unknown, code: string, what: string): void {
  if (!(error instanceof ImageError)) {
    t.fail(`${what}: ${(error as Error)?.stack ?? error}`);
    return;
  }
  t.is(error.code, code, `${what}: ${error.message}`);
}

function existingTests(recipe: Recipe): void {
  test(`${recipe.title}: failures on an existing image are told, and leave every byte old or new`, async (t) => {
    const { bytes, model } = await completeImage(recipe);
    const written = new DiskModel(recipe.size, model.bytes);
    await writeSome(recipe, await openOn(memoryStorage('new', bytes), recipe), written);
    let failures = 0;
    const fails = async (plan: FaultPlan) => {
      const what = JSON.stringify(plan);
      const memory = memoryStorage('existing', bytes);
      const error = await writeAgain(recipe, memory, plan);
      if (error !== null) assertReason(t, error, plan.faults ? 'EIO' : 'ENOSPC', what);
      const found = await readDisk(memory.bytes(), recipe);
      if (error === null) t.true(found.equals(written.bytes), what);
      const wrong = firstForeign(found, [written.bytes, model.bytes], (at) => isWrittenTwice(recipe, at));
      t.is(wrong, -1, `${what}: byte ${wrong}`);
      if (error !== null) failures += 1;
      return error !== null;
    };
    for (const operation of OPERATIONS) {
      const plan = (nth: number) => ({ faults: [{ operation, nth, code: 'EIO', lasting: nth % 2 === 0 }] });
      // Three in a row that change nothing: there are no more operations of the kind.
      for (let nth = 1, idle = 0; idle < 3; nth += 1) idle = (await fails(plan(nth))) ? 0 : idle + 1;
    }
    for (let capacity = 0; capacity < 200_000; capacity += 2777) {
      await fails({ capacity: capacity - (capacity % recipe.atom) });
    }
    t.true(failures > 20);
  });
}

async function writeAgain(recipe: Recipe, memory: ReturnType<typeof memoryStorage>, plan: FaultPlan): Promise<unknown> {
  let target: Target | null = null;
  try {
    target = await openOn(faultyStorage(memory, plan), recipe);
    await writeSome(recipe, target, new DiskModel(recipe.size));
    await target.close();
    return null;
  } catch (reason) {
    await target?.abort().catch(() => {});
    return reason;
  }
}
