import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { faultyStorage, type StorageEvent } from '../../lib/storage/faulty.ts';
import { type MemoryStorage, memoryStorage } from '../../lib/storage/memory.ts';
import { KEY, pairsOf, SECRET_OBJECTS } from '../conformance/facts.ts';
import { DiskModel, Random } from '../support/model.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { afterCrash, type Loss } from './power.ts';
import {
  completeImage,
  createOn,
  firstForeign,
  looksComplete,
  openOn,
  type Recipe,
  readDisk,
  recipes,
  writeSome,
} from './subjects.ts';

/**
 * Formats that `qemu-img check` looks through, with what it needs: a VHDX image's log has to be replayed. What an honest
 * crash leaves it takes for errors in others: in Parallels the flag "in use", in VDI counted blocks that are not used.
 */
const CHECKED: Readonly<Record<string, readonly string[]>> = { qcow2: [], qed: [], vmdk: [], vhdx: ['-r', 'all'] };
/** All moments of a run: after each event, with all that was written, and with losses. */
async function eachCrash(
  start: Buffer,
  events: readonly StorageEvent[],
  look: (memory: MemoryStorage, what: string, loss: Loss) => Promise<void>,
): Promise<void> {
  const random = new Random(events.length);
  for (let count = 0; count <= events.length; count += 1) {
    for (const loss of ['none', 'whole', 'torn'] satisfies Loss[]) {
      const bytes = await afterCrash(start, events.slice(0, count), { loss, random });
      await look(memoryStorage('crashed', bytes), `after ${count} of ${events.length} operations, loss: ${loss}`, loss);
    }
  }
}

for (const recipe of recipes()) {
  if (recipe.driver.name !== 'raw') {
    test(`${recipe.title}: whenever the power goes, a new image is complete or not recognised`, async (t) => {
      const record: StorageEvent[] = [];
      const model = new DiskModel(recipe.size);
      const target = await createOn(faultyStorage(memoryStorage('new'), { record }), recipe);
      await writeSome(recipe, target, model);
      await target.close();
      let complete = 0;
      await eachCrash(Buffer.alloc(0), record, async (memory, what) => {
        if (!(await looksComplete(memory, recipe))) return;
        complete += 1;
        t.true((await readDisk(memory.bytes(), recipe)).equals(model.bytes), what);
      });
      t.true(complete > 0);
    });
  }
  if (recipe.driver.openTarget !== undefined) existingTest(recipe);
}

function existingTest(recipe: Recipe): void {
  test(`${recipe.title}: whenever the power goes, an existing image has each byte old or new`, async (t) => {
    const { bytes, model } = await completeImage(recipe);
    const record: StorageEvent[] = [];
    const written = new DiskModel(recipe.size, model.bytes);
    const target = await openOn(faultyStorage(memoryStorage('existing', bytes), { record }), recipe);
    const offsets = [
      [1000, 3000],
      [70_000 * recipe.spread, 20_000],
      [200_000 * recipe.spread, 50_000],
    ];
    for (const [offset, length] of offsets) {
      const buffer = Buffer.alloc(length, 0xc3);
      await target.write(offset, buffer);
      written.write(offset, buffer);
    }
    await target.close();
    await withTmpDir((directory) =>
      eachCrash(bytes, record, async (memory, what, loss) => {
        const found = await readDisk(memory.bytes(), recipe);
        const wrong = firstForeign(found, [written.bytes, model.bytes]);
        t.is(wrong, -1, `${what}: byte ${wrong}`);
        // Each run of qemu-img takes its time: it gets what is hardest.
        const isChecked = loss === 'torn' && recipe.driver.name in CHECKED;
        if (isChecked) checkWithQemu(t, memory, recipe, join(directory, 'crashed'), what);
      }),
    );
  });
}

/** Leaked clusters (exit code 3) are what an honest crash leaves; errors are not. */
function checkWithQemu(
  t: ExecutionContext,
  memory: MemoryStorage,
  { driver, options }: Recipe,
  path: string,
  what: string,
): void {
  const qemuImg = tool('qemu-img');
  if (!qemuImg.available) return;
  writeFileSync(path, memory.bytes());
  const key = 'encrypt.format' in options ? pairsOf(KEY) : [];
  const node = [`driver=${driver.name}`, `file.filename=${path}`, ...key].join();
  const args = ['check', ...SECRET_OBJECTS, ...CHECKED[driver.name], '--image-opts', node];
  const { status, text, stderr } = qemuImg.run(args);
  t.true(status === 0 || status === 3, `${what}: ${text}${stderr}`);
}
