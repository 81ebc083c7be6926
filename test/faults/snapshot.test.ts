import test, { type ExecutionContext } from 'ava';
import {
  applySnapshot,
  createImage,
  createSnapshot,
  deleteSnapshot,
  ImageError,
  openTarget,
  type SnapshotOptions,
  snapshots,
} from '../../lib/index.ts';
import { decodeHeader } from '../../lib/layouts/qcow2/index.ts';
import { pattern } from '../support/model.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { eachCrash, type Files, Machine } from './power.ts';
import { assertSound, isDirty, readImage } from './sound.ts';

const KIB = 1024;
const SIZE = 400 * KIB;
/** Of all moments, qemu-img looks at one of so many. */
const SAMPLE = 7;

/** What images are made with. */
const IMAGES: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  'small clusters': { cluster_size: '512' },
  'version 2': { cluster_size: '512', compat: '0.10' },
  subclusters: { cluster_size: '16384', extended_l2: 'on' },
};

const OPERATIONS: Readonly<Record<string, (options: SnapshotOptions) => Promise<void>>> = {
  create: (options) => createSnapshot('new', options),
  apply: (options) => applySnapshot('old', options),
  delete: (options) => deleteSnapshot('old', options),
};

interface Subject {
  machine: Machine;
  start: Files;
  /** What the disk is before, and what the snapshot `old` has. */
  disk: Buffer;
  saved: Buffer;
  run: () => Promise<void>;
}

/** An image with a snapshot `old`, changed since. */
async function subject(name: string, operation: string): Promise<Subject> {
  const machine = new Machine();
  const image = machine.name('image');
  const made = await createImage({ filename: image, format: 'qcow2', size: SIZE, options: IMAGES[name] });
  await made.write(0, pattern(300 * KIB, 1));
  await made.close();
  await createSnapshot('old', { image, format: 'qcow2' });
  await write(machine, 100_000, 50_000, 2);
  return {
    ...{ machine, start: new Map([['image', machine.bytes('image')]]) },
    disk: await readImage(machine, 'image', 'qcow2'),
    saved: await readImage(machine, 'image', 'qcow2', 'old'),
    run: () => OPERATIONS[operation]({ image, format: 'qcow2' }),
  };
}

async function write(machine: Machine, offset: number, length: number, seed: number): Promise<void> {
  const target = await openTarget(machine.name('image'), { format: 'qcow2' });
  await target.write(offset, pattern(length, seed));
  await target.close();
}

/** The disk is the old one, or the one that was applied; each snapshot that there is has what was taken. Returns the disk. */
async function assertOldOrNew(t: ExecutionContext, of: Subject, operation: string, what: string): Promise<Buffer> {
  const shown = await readImage(of.machine, 'image', 'qcow2');
  t.true(shown.equals(of.disk) || (operation === 'apply' && shown.equals(of.saved)), `${what}: the disk`);
  await assertSnapshots(t, of, operation, what);
  return shown;
}

async function assertSnapshots(t: ExecutionContext, of: Subject, operation: string, what: string): Promise<void> {
  const contents: Readonly<Record<string, Buffer>> = { old: of.saved, new: of.disk };
  const names = (await snapshots({ image: of.machine.name('image'), format: 'qcow2' })).map(({ name }) => name);
  t.true(names.includes('old') || operation === 'delete', `${what}: ${names}`);
  for (const name of names) {
    t.true((await readImage(of.machine, 'image', 'qcow2', name)).equals(contents[name]), `${what}: snapshot ${name}`);
  }
}

/** Whoever writes next, without a check before, changes the disk alone. */
async function assertApart(t: ExecutionContext, of: Subject, operation: string, what: string): Promise<void> {
  const expected = await readImage(of.machine, 'image', 'qcow2');
  pattern(200 * KIB, 3).copy(expected, 50 * KIB);
  await write(of.machine, 50 * KIB, 200 * KIB, 3);
  t.true((await readImage(of.machine, 'image', 'qcow2')).equals(expected), `${what}: written to`);
  await assertSnapshots(t, of, operation, `${what}: written to`);
}

function versionOf(bytes: Buffer): number {
  return decodeHeader(bytes).version;
}

for (const name of Object.keys(IMAGES)) {
  for (const operation of Object.keys(OPERATIONS)) {
    test(`${name}: whenever the power goes in ${operation}, disk and snapshots are old or new, and at worst something leaks`, async (t) => {
      const of = await subject(name, operation);
      const events = await of.machine.record(of.run);
      t.true(events.length > 5);
      let dirty = 0;
      await withTmpDir((directory) =>
        eachCrash(of.machine, { start: of.start, events }, async (what, moment) => {
          const shown = await assertOldOrNew(t, of, operation, what);
          const crashed = of.machine.files;
          if (isDirty(of.machine.bytes('image'))) dirty += 1;
          await assertApart(t, of, operation, what);
          of.machine.put(crashed);
          const sampled = moment % SAMPLE === 0 && tool('qemu-img').available;
          const how = { format: 'qcow2', what, directory: sampled ? directory : undefined };
          await assertSound(t, of.machine, 'image', how);
          t.true((await readImage(of.machine, 'image', 'qcow2')).equals(shown), what);
          await assertSnapshots(t, of, operation, `${what}: repaired`);
        }),
      );
      t.is(dirty > 0, operation !== 'apply');
    });

    for (const failing of ['write', 'flush'] as const) {
      test(`${name}: a ${failing} that fails in ${operation} gives one error and an image that opens`, async (t) => {
        const of = await subject(name, operation);
        let failures = 0;
        for (const lasting of [true, false]) {
          for (let nth = 1; ; nth += 1) {
            of.machine.put(of.start);
            const error = await of.machine.fail(
              'image',
              [{ operation: failing, nth, code: 'ENOSPC', lasting }],
              of.run,
            );
            const what = `${failing} ${nth}${lasting ? ' and on' : ''}`;
            await assertOldOrNew(t, of, operation, what);
            if (error === null) {
              t.is(versionOf(of.machine.bytes('image')), versionOf(of.start.get('image') as Buffer));
              break;
            }
            t.true(error instanceof ImageError && error.code === 'ENOSPC', `${what}: ${(error as Error).stack}`);
            await assertSound(t, of.machine, 'image', { format: 'qcow2', what });
            await assertApart(t, of, operation, what);
            failures += 1;
          }
        }
        t.true(failures > 3);
      });
    }
  }
}
