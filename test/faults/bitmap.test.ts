import test, { type ExecutionContext } from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { createImage } from '../../lib/formats/create.ts';
import { checkQcow2 } from '../../lib/sinks/qcow2/check/index.ts';
import type { Target } from '../../lib/sinks/target.ts';
import { faultyStorage, type StorageEvent } from '../../lib/storage/faulty.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { bitmapsOf, openBitmapTarget } from '../support/bitmaps.ts';
import { Random } from '../support/model.ts';
import { openRequest } from '../support/requests.ts';
import { afterCrash, type Loss } from './power.ts';

const SIZE = 4 * 1024 * 1024;
/** What a disk without power may have kept of what no flush had made sure of: each moment is looked at so often. */
const LOSSES: readonly Loss[] = ['none', 'whole', 'whole', 'torn', 'torn'];

type Edit = (target: Target) => Promise<unknown>;

const EDITS: Readonly<Record<string, Edit>> = {
  'adding a bitmap': ({ bitmaps }) => bitmaps!.add('new', { granularity: 512 }),
  'adding the first bitmap': async ({ bitmaps }) => bitmaps!.add('first'),
  'removing a bitmap': ({ bitmaps }) => bitmaps!.remove('fine'),
  'removing the last bitmap': ({ bitmaps }) => bitmaps!.remove('fine'),
  'clearing a bitmap': ({ bitmaps }) => bitmaps!.clear('fine'),
  'disabling a bitmap': ({ bitmaps }) => bitmaps!.disable('fine'),
  'merging bitmaps': ({ bitmaps }) => bitmaps!.merge('coarse', 'fine'),
  'growing the disk': ({ truncate }) => truncate!(SIZE * 2),
  'shrinking the disk': ({ truncate }) => truncate!(SIZE / 3 - ((SIZE / 3) % 512)),
  'writing what is recorded': (target) => target.write(SIZE / 2, Buffer.alloc(70_000, 7)),
};

/** Two bitmaps with marks in several clusters of bits; those of the first go on recording. */
async function subject(edit: string): Promise<Buffer> {
  const memory = memoryStorage('image');
  const options = { cluster_size: '512' };
  const target = await createImage({ filename: 'image', format: 'qcow2', size: SIZE, options, storage: memory });
  await target.write(0, Buffer.alloc(3000, 1));
  if (edit !== 'adding the first bitmap') {
    await target.bitmaps!.add('fine', { granularity: 512, marks: some(1000) });
  }
  if (edit !== 'adding the first bitmap' && edit !== 'removing the last bitmap') {
    await target.bitmaps!.add('coarse', { granularity: 4096, disabled: true, marks: some(300_000) });
  }
  await target.close();
  return memory.bytes();
}

async function* some(step: number): AsyncGenerator<{ offset: number; length: number }> {
  for (let offset = step; offset + 200 < SIZE; offset += step * 3) yield { offset, length: 200 };
}

/** The methods of a target lose it when they are taken out of it. */
function bound(target: Target): Target {
  return new Proxy(target, {
    get: (each, key) => {
      const value = Reflect.get(each, key, each);
      return typeof value === 'function' ? value.bind(each) : value;
    },
  });
}

async function run(storage: ReturnType<typeof faultyStorage>, edit: Edit): Promise<void> {
  const target = await openBitmapTarget(storage);
  try {
    await edit(bound(target));
  } catch (error) {
    await target.abort().catch(() => {});
    throw error;
  }
  await target.close();
}

async function state(image: Buffer): Promise<string> {
  const { size, bitmaps } = await bitmapsOf(memoryStorage('image', Buffer.from(image)));
  return JSON.stringify({ size, bitmaps });
}

/** As it was or as it shall be; a bitmap that recorded may also say of itself that it can't be relied on. */
async function assertOldOrNew(t: ExecutionContext, image: Buffer, known: string[], what: string): Promise<void> {
  const found = await state(image);
  const distrusted = known.map((text) => {
    const { size, bitmaps } = JSON.parse(text);
    return JSON.stringify({
      size,
      bitmaps: bitmaps.map((each: { enabled: boolean }) => (each.enabled ? { ...each, marks: null } : each)),
    });
  });
  t.true([...known, ...distrusted].includes(found), `${what}: ${found.slice(0, 200)}`);
  const request = openRequest(memoryStorage('image', image), false);
  const { corruptions } = await checkQcow2({ ...request, repair: null, report: () => {} });
  t.is(corruptions, 0, what);
}

for (const [name, edit] of Object.entries(EDITS)) {
  test(`${name}: whenever the power goes, the bitmaps are as they were or as they shall be`, async (t) => {
    const start = await subject(name);
    const record: StorageEvent[] = [];
    const edited = memoryStorage('edited', Buffer.from(start));
    await run(faultyStorage(edited, { record }), edit);
    const known = [await state(start), await state(edited.bytes())];
    t.not(known[0], known[1]);
    const random = new Random(record.length);
    for (let count = 0; count <= record.length; count += 1) {
      for (const [round, loss] of LOSSES.entries()) {
        const image = await afterCrash(start, record.slice(0, count), { loss, random });
        await assertOldOrNew(t, image, known, `after ${count} of ${record.length} operations, loss ${round}: ${loss}`);
      }
    }
  });

  test(`${name}: a failure at any write or flush is one error, and the bitmaps are as they were or as they shall be`, async (t) => {
    const start = await subject(name);
    const edited = memoryStorage('edited', Buffer.from(start));
    await run(edited, edit);
    const known = [await state(start), await state(edited.bytes())];
    for (const operation of ['write', 'flush'] as const) {
      for (const lasting of [true, false]) {
        let failures = 0;
        for (let nth = 1; ; nth += 1) {
          const memory = memoryStorage('failing', Buffer.from(start));
          const storage = faultyStorage(memory, { faults: [{ operation, nth, code: 'ENOSPC', lasting }] });
          const error = await run(storage, edit).then(
            () => null,
            (reason) => reason,
          );
          const what = `${operation} ${nth}${lasting ? ' and on' : ''}`;
          await assertOldOrNew(t, memory.bytes(), known, what);
          if (error === null) break;
          failures += 1;
          t.true(error instanceof ImageError && error.code === 'ENOSPC', `${what}: ${error?.stack}`);
        }
        t.true(failures > 0);
      }
    }
  });
}
