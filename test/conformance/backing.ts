import { writeFile } from 'node:fs/promises';
import test from 'ava';
import { createImage } from '../../lib/formats/create.ts';
import { DiskModel, pattern, Random } from '../support/model.ts';
import { checkReads } from './checks.ts';
import { assertProperty } from './property.ts';
import { History, type Step, steps } from './random-writes.ts';
import type { Subject } from './subject.ts';

const RUNS = 6;
/** Odd on purpose: the backing file ends inside an allocation unit. */
const SHAPES = [
  { title: 'as long as the disk', backing: 262_144, size: 262_144 },
  { title: 'shorter than the disk', backing: 99_840, size: 300_032 },
  { title: 'longer than the disk', backing: 400_384, size: 150_016 },
];

/** Makes the lowest layer; returns what a new image is told of it. */
async function makeBase(here: Subject, bytes: Buffer): Promise<{ filename: string; format: string }> {
  const { backingFormat: format = 'raw' } = here.facts;
  const filename = here.path('base');
  if (format === 'raw') {
    await writeFile(filename, bytes);
  } else {
    const target = await createImage({ filename, format, size: bytes.length, cache: 'unsafe' });
    await target.write(0, bytes);
    await target.close();
  }
  return { filename, format };
}

/** Copy-on-write over a raw backing file, or one of the only format that will do. */
export function backingTests(subject: Subject): void {
  for (const { title, backing, size } of SHAPES) {
    test(`${subject.title}: any history over a backing file ${title} equals the model`, async (t) => {
      const check = (history: Step[]) =>
        subject.within(async (here) => {
          const below = pattern(backing, 40);
          const target = await here.create({ size, backing: await makeBase(here, below) });
          const seen = Buffer.alloc(size);
          below.copy(seen);
          await History.live(here, target, new DiskModel(size, seen), history);
        });
      await t.notThrowsAsync(assertProperty(steps, check, RUNS));
    });
  }

  test(`${subject.title}: without a size, the disk is as long as its backing file, and the file is named`, async (t) => {
    await subject.within(async (here) => {
      const base = await makeBase(here, pattern(99_840, 41));
      const target = await here.create({ size: null, backing: base });
      t.is(target.size, 99_840);
      t.false(target.readsAsZero);
      await target.close();
      const image = await here.open(here.path(), null);
      const format = here.facts.forgetsBackingFormat ? null : base.format;
      t.deepEqual(image.source.backing, { filename: here.path('base'), format });
      t.is(image.backing?.driver.name, base.format);
      const model = new DiskModel(99_840, pattern(99_840, 41));
      await t.notThrowsAsync(checkReads(image.chain, model, new Random(3)).finally(() => image.close()));
    });
  });

  test(`${subject.title}: a chain of three shows the topmost layer that holds a byte`, async (t) => {
    await subject.within(async (here) => {
      const model = new DiskModel(262_144, pattern(262_144, 42));
      let below = await makeBase(here, pattern(262_144, 42));
      for (const layer of [1, 2, 3]) {
        const filename = here.path(`layer-${layer}`);
        const target = await here.create({ size: null, backing: below, filename });
        const random = new Random(layer);
        for (let round = 0; round < 6; round += 1) {
          const offset = random.below(240_000);
          const buffer = pattern(1 + random.below(20_000), 50 + layer);
          await target.write(offset, buffer);
          model.write(offset, buffer);
        }
        await target.close();
        below = { filename: here.nameAsBacking(filename), format: here.driver.name };
      }
      const image = await here.open(here.path('layer-3'));
      await t.notThrowsAsync(checkReads(image.chain, model, new Random(4)).finally(() => image.close()));
    });
  });
}
