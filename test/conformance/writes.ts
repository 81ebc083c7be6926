import test from 'ava';
import { DiskModel, pattern, Random } from '../support/model.ts';
import { assertDisk, checkRead } from './checks.ts';
import { assertProperty } from './property.ts';
import { History, type Step, steps } from './random-writes.ts';
import type { Subject } from './subject.ts';

const RUNS = 12;

/** Random access writing onto new and existing images. */
export function writeTests(subject: Subject): void {
  test(`${subject.title}: any history of writes, zeroes, discards and compressed writes equals the model`, async (t) => {
    const check = (history: Step[]) =>
      subject.within(async (here) => {
        const size = await here.diskSize();
        await History.live(here, await here.create({ size }), new DiskModel(size), history);
      });
    await t.notThrowsAsync(assertProperty(steps, check, RUNS));
  });

  concurrencyTests(subject);

  test(`${subject.title}: writes past the end are refused, and change nothing`, async (t) => {
    await subject.within(async (here) => {
      const target = await here.create({ size: 65536 });
      await t.throwsAsync(target.write(65536 - 100, Buffer.alloc(200, 1)), { name: 'ImageError' });
      await t.throwsAsync(target.zero(65536, 512), { name: 'ImageError' });
      await target.close();
      const image = await here.open();
      await assertDisk(t, image.source, new DiskModel(65536), new Random(1)).finally(() => image.close());
    });
  });

  test(`${subject.title}: giving up on an existing image leaves it recognised`, async (t) => {
    await subject.within(async (here) => {
      await (await here.create({ size: 300_000 })).close();
      const target = await here.openTarget();
      await target.write(100, pattern(50_000, 8));
      await target.abort();
      const image = await here.open(here.path(), null);
      t.is(image.driver.name, here.driver.name);
      await image.close();
    });
  });

  test(`${subject.title}: the disk can be made longer, and the new part reads as zeros`, async (t) => {
    await subject.within(async (here) => {
      const target = await here.create({ size: 100_352 });
      if (target.truncate === undefined) return void (await target.close().then(() => t.pass()));
      const model = new DiskModel(1_500_160);
      const buffer = pattern(100_352, 6);
      await target.write(0, buffer);
      model.write(0, buffer);
      await target.truncate(1_500_160);
      t.is(target.size, 1_500_160);
      if (here.facts.noisy) await target.zero(100_352, 1_500_160 - 100_352);
      await target.write(1_500_160 - 100, buffer.subarray(0, 100));
      model.write(1_500_160 - 100, buffer.subarray(0, 100));
      await target.close();
      const image = await here.open();
      await assertDisk(t, image.source, model, new Random(2)).finally(() => image.close());
    });
  });
}

/** Cuts [0, size) into pieces of random lengths that often share an allocation unit. */
function pieces(size: number, granularity: number, random: Random): { offset: number; length: number }[] {
  const found = [];
  for (let at = 0; at < size; ) {
    const longest = random.below(3) === 0 ? 4 * granularity : Math.max(512, granularity / 3);
    const length = Math.min(size - at, 1 + random.below(Math.max(longest, size / 400)));
    found.push({ offset: at, length });
    at += length;
  }
  return found;
}

function concurrencyTests(subject: Subject): void {
  test(`${subject.title}: writes of disjoint ranges at once all arrive, and the reading side sees them`, async (t) => {
    await subject.within(async (here) => {
      const size = await here.diskSize();
      const target = await here.create({ size });
      const model = new DiskModel(size);
      const random = new Random(11);
      for (const round of [0, 1]) {
        const all = random.shuffled(pieces(size, target.granularity, random));
        const work = all.map(async ({ offset, length }, index) => {
          const kind = random.below(8);
          if (round === 1 && kind < 3) return;
          if (kind === 7) {
            model.zero(offset, length);
            return target.zero(offset, length, { unmap: index % 2 === 0 });
          }
          const buffer = pattern(length, index);
          model.write(offset, buffer);
          return target.write(offset, buffer);
        });
        await Promise.all(work);
        const { source } = target;
        if (source !== null) await t.notThrowsAsync(checkRead(source, model, 0, size));
      }
      await target.close();
      const image = await here.open();
      await assertDisk(t, image.source, model, random).finally(() => image.close());
    });
  });
}
