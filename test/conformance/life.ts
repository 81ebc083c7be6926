import { existsSync } from 'node:fs';
import { stat, writeFile } from 'node:fs/promises';
import test from 'ava';
import { drivers } from '../../lib/formats/index.ts';
import type { LayerInfo } from '../../lib/sources/source.ts';
import { DiskModel, pattern, Random } from '../support/model.ts';
import { assertDisk } from './checks.ts';
import { headOf } from './probe.ts';
import type { Subject } from './subject.ts';

const SIZES = [0, 1, 511, 512, 513, 1000, 65536, 99_999, 65536 * 3 + 1];
const TEBIBYTE = 2 ** 40;
/** Metadata of a sparse TiB; data would take thousands of times as much. */
const SPARSE_BYTES = 512 * 1024 * 1024;

/** Creation, sizes, completion and giving up. */
export function lifeTests(subject: Subject): void {
  sizeTests(subject);
  completionTests(subject);

  test(`${subject.title}: a description gives back what create was asked for`, async (t) => {
    await subject.within(async (here) => {
      await (await here.create({ size: 1024 * 1024 })).close();
      const image = await here.open(here.path(), null);
      const info = await image.source.describe().finally(() => image.close());
      for (const [key, value] of Object.entries(here.options)) {
        const shown = described(info, key);
        if (shown !== undefined) t.is(shown, value.replace('{image}', here.path()));
      }
      for (const key of here.facts.described ?? []) t.not(described(info, key), undefined, key);
      t.pass();
    });
  });
}

/** An option's value as the description shows it, spelled as the option; undefined where it isn't shown. */
function described(info: LayerInfo, key: string): string | undefined {
  if (key === 'cluster_size') return info.clusterSize === undefined ? undefined : String(info.clusterSize);
  const shown = info.formatSpecific?.data[key.replaceAll('_', '-')];
  if (shown === undefined) return undefined;
  return typeof shown === 'boolean' ? (shown ? 'on' : 'off') : String(shown);
}

function sizeTests(subject: Subject): void {
  test(`${subject.title}: disks of any size are made, read as zeros, and take a write at their end`, async (t) => {
    await subject.within(async (here) => {
      const { smallest = 0 } = here.facts;
      for (const size of SIZES.filter((each) => each >= smallest)) {
        const filename = here.path(`size-${size}`);
        const target = await here.create({ size, filename });
        t.is(target.size, here.rounded(size), `${size}`);
        t.is(target.readsAsZero, here.facts.noisy !== true);
        const model = new DiskModel(target.size);
        if (size > 0) {
          const last = pattern(Math.min(700, target.size), 5);
          await target.write(target.size - last.length, last);
          model.write(target.size - last.length, last);
        }
        await target.close();
        const image = await here.open(filename);
        await assertDisk(t, image.source, model, new Random(size)).finally(() => image.close());
      }
    });
  });

  test(`${subject.title}: a huge disk takes the space of what was written`, async (t) => {
    if (subject.options.preallocation !== undefined || subject.facts.noisy) {
      t.log('skipped: all of it takes space');
      return t.pass();
    }
    await subject.within(async (here) => {
      const size = Math.min(TEBIBYTE, here.facts.longest?.(here.options) ?? TEBIBYTE);
      const target = await here.create({ size });
      const buffer = pattern(10_000, 9);
      const offsets = [0, size / 2 - 5000, size - buffer.length];
      for (const offset of offsets) await target.write(offset, buffer);
      await target.close();
      t.true((await stat(here.path())).blocks * 512 < SPARSE_BYTES);
      const image = await here.open();
      t.is(image.source.size, size);
      for (const offset of offsets) {
        const found = Buffer.alloc(buffer.length);
        await image.source.read(offset, found);
        t.true(found.equals(buffer));
      }
      const gap = Buffer.alloc(5000, 1);
      await image.source.read(size / 4, gap);
      t.true(gap.equals(Buffer.alloc(5000)));
      await image.close();
    });
  });
}

/** The formats other than those that take any file, as far as they recognise it. */
async function recognised(path: string): Promise<string[]> {
  const head = await headOf(path);
  return drivers()
    .filter((driver) => driver.probe(head, path) > 1)
    .map(({ name }) => name);
}

function completionTests(subject: Subject): void {
  test(`${subject.title}: a new image is not recognised before close, and is afterwards`, async (t) => {
    if (!subject.isTold) return t.pass();
    await subject.within(async (here) => {
      const target = await here.create({ size: 300_000 });
      t.deepEqual(await recognised(here.path()), []);
      await target.write(0, pattern(200_000, 2));
      await target.flush();
      t.deepEqual(await recognised(here.path()), []);
      await target.close();
      t.deepEqual(await recognised(here.path()), [here.driver.name]);
    });
  });

  test(`${subject.title}: giving up removes a file that was made`, async (t) => {
    await subject.within(async (here) => {
      const target = await here.create({ size: 300_000 });
      await target.write(1000, pattern(100_000, 2));
      t.true(existsSync(here.path()));
      await target.abort();
      t.false(existsSync(here.path()));
    });
  });

  test(`${subject.title}: giving up leaves a file that was overwritten unrecognised`, async (t) => {
    if (!subject.isTold) return t.pass();
    await subject.within(async (here) => {
      const first = await here.create({ size: 300_000 });
      await first.close();
      const second = await here.create({ size: 300_000 });
      t.deepEqual(await recognised(here.path()), [], 'already while it is written');
      await second.write(0, pattern(100_000, 2));
      await second.abort();
      t.true(existsSync(here.path()));
      t.deepEqual(await recognised(here.path()), []);
    });
  });

  test(`${subject.title}: an image replaces whatever the file was before`, async (t) => {
    await subject.within(async (here) => {
      await writeFile(here.path(), pattern(2_000_000, 77));
      const target = await here.create({ size: 100_000 });
      await target.close();
      const image = await here.open();
      const model = new DiskModel(here.rounded(100_000));
      await assertDisk(t, image.source, model, new Random(1)).finally(() => image.close());
    });
  });
}
