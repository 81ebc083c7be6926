import test from 'ava';
import fc from 'fast-check';
import { ImageError } from '../../lib/core/errors.ts';
import { faultyStorage, replayEvents, type StorageEvent } from '../../lib/storage/faulty.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { rateLimited } from '../../lib/storage/rate.ts';
import { followModel, pattern, steps } from './model.ts';

test('the n-th operation fails with the errno that was asked for, and only that one', async (t) => {
  const storage = faultyStorage(memoryStorage('m', Buffer.alloc(100)), {
    faults: [
      { operation: 'read', nth: 2, code: 'EIO' },
      { operation: 'flush', nth: 1, code: 'ENOSPC', lasting: true },
      { operation: 'close', nth: 1, code: 'EDQUOT' },
    ],
  });
  const bytes = Buffer.alloc(10);
  await storage.read(0, bytes);
  const error = await t.throwsAsync(storage.read(20, bytes), { instanceOf: ImageError, message: 'Input/output error' });
  t.like(error, { code: 'EIO', kind: 'io', file: 'm', operation: 'read', offset: 20 });
  await storage.read(0, bytes);
  await t.throwsAsync(storage.flush(), { code: 'ENOSPC' });
  await t.throwsAsync(storage.flush(), { code: 'ENOSPC' });
  await t.throwsAsync(storage.close(), { message: 'Disk quota exceeded' });
});

test('a disk that is full cuts the write that filled it', async (t) => {
  const memory = memoryStorage('m');
  const storage = faultyStorage(memory, { capacity: 150 });
  await storage.write(0, pattern(100, 1));
  await t.throwsAsync(storage.writev(100, [pattern(30, 2), pattern(30, 3)]), { code: 'ENOSPC' });
  t.is(memory.size, 150);
  await t.throwsAsync(storage.write(0, pattern(1, 1)), { code: 'ENOSPC' });
});

test('what was recorded makes the same storage again', async (t) => {
  await fc.assert(
    fc.asyncProperty(steps, async (all) => {
      const record: StorageEvent[] = [];
      const memory = memoryStorage('m');
      await followModel(faultyStorage(memory, { record }), all);
      const again = memoryStorage('again');
      await replayEvents(record, again);
      return again.bytes().equals(memory.bytes());
    }),
    { numRuns: 50 },
  );
  t.pass();
});

test('a limited rate lets bytes through when their time has come', async (t) => {
  let now = 0;
  const slept: number[] = [];
  const clock = {
    now: () => now,
    async sleep(milliseconds: number) {
      slept.push(milliseconds);
      now += milliseconds;
    },
  };
  const storage = rateLimited(memoryStorage('m'), 1000, clock);
  await storage.write(0, pattern(500, 1));
  const bytes = Buffer.alloc(500);
  await storage.read(0, bytes);
  await storage.writev(500, [bytes, bytes]);
  t.deepEqual(slept, [500, 500]);
  now += 10_000;
  await storage.read(0, bytes);
  t.is(slept.length, 2);
  t.true(bytes.equals(pattern(500, 1)));
});
