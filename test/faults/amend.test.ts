import test, { type ExecutionContext } from 'ava';
import { type AmendOptions, amend, createImage, createSnapshot, ImageError, openTarget } from '../../lib/index.ts';
import { pattern } from '../support/model.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { eachCrash, type Files, Machine } from './power.ts';
import { assertSound, readImage } from './sound.ts';

const KIB = 1024;
const SIZE = 400 * KIB;
/** Of all moments, qemu-img looks at one of so many. */
const SAMPLE = 9;

interface Case {
  /** What the image is made with, besides clusters of 512 bytes. */
  options?: Readonly<Record<string, string>>;
  /** Bytes of a raw backing file. */
  backing?: number;
  snapshot?: boolean;
  change: AmendOptions['options'];
}

const CASES: Readonly<Record<string, Case>> = {
  'the version goes down': { change: { compat: '0.10' } },
  'the version goes down over a backing file': { backing: SIZE, change: { compat: '0.10' } },
  'the version goes up': { options: { compat: '0.10' }, change: { compat: '1.1', lazy_refcounts: 'on' } },
  'the width of the refcounts changes': { change: { refcount_bits: '64' } },
  'the width of the refcounts changes beneath a snapshot': { snapshot: true, change: { refcount_bits: '8' } },
  'flags and size change': { change: { lazy_refcounts: 'on', size: String(SIZE + 300 * KIB) } },
};

interface Subject {
  machine: Machine;
  start: Files;
  disk: Buffer;
  saved: Buffer | null;
  run: () => Promise<void>;
}

/** An image with data, and with zero clusters where there are such. */
async function subject({ options, backing, snapshot, change }: Case): Promise<Subject> {
  const machine = new Machine();
  const [image, format] = [machine.name('image'), 'qcow2'];
  machine.put(new Map([['base', pattern(backing ?? 0, 9)]]));
  const made = await createImage({
    ...{ filename: image, format, size: SIZE, options: { cluster_size: '512', ...options } },
    ...(backing !== undefined && { backing: { filename: machine.name('base'), format: 'raw' } }),
  });
  await made.write(0, pattern(300 * KIB, 1));
  await made.close();
  if (snapshot) await createSnapshot('before', { image, format });
  const target = await openTarget(image, { format });
  await target.zero(100 * KIB, 50 * KIB);
  await target.zero(200 * KIB, 50 * KIB, { unmap: true });
  await target.close();
  return {
    ...{ machine, start: new Map([['image', machine.bytes('image')]]) },
    disk: await readImage(machine, 'image', format),
    saved: snapshot ? await readImage(machine, 'image', format, 'before') : null,
    run: () => amend({ image, format, options: change }),
  };
}

async function assertSame(t: ExecutionContext, { machine, disk, saved }: Subject, what: string): Promise<void> {
  const shown = await readImage(machine, 'image', 'qcow2');
  t.true(shown.subarray(0, SIZE).equals(disk), what);
  t.true(shown.subarray(SIZE).equals(Buffer.alloc(shown.length - SIZE)), what);
  if (saved !== null) t.true((await readImage(machine, 'image', 'qcow2', 'before')).equals(saved), what);
}

for (const [name, each] of Object.entries(CASES)) {
  test(`whenever the power goes while ${name}, the disk stays what it was, and at worst something leaks`, async (t) => {
    const of = await subject(each);
    const events = await of.machine.record(of.run);
    t.true(events.length > 3);
    await withTmpDir((directory) =>
      eachCrash(of.machine, { start: of.start, events }, async (what, moment) => {
        await assertSame(t, of, what);
        const sampled = moment % SAMPLE === 0 && tool('qemu-img').available;
        await assertSound(t, of.machine, 'image', {
          ...{ format: 'qcow2', what },
          directory: sampled ? directory : undefined,
        });
      }),
    );
  });

  test(`a write or flush that fails while ${name} gives one error and an image that opens`, async (t) => {
    const of = await subject(each);
    let failures = 0;
    for (const operation of ['write', 'flush'] as const) {
      for (const lasting of [true, false]) {
        for (let nth = 1; ; nth += 1) {
          of.machine.put(of.start);
          const error = await of.machine.fail('image', [{ operation, nth, code: 'ENOSPC', lasting }], of.run);
          const what = `${operation} ${nth}${lasting ? ' and on' : ''}`;
          await assertSame(t, of, what);
          await assertSound(t, of.machine, 'image', { format: 'qcow2', what });
          if (error === null) break;
          t.true(error instanceof ImageError && error.code === 'ENOSPC', `${what}: ${(error as Error).stack}`);
          failures += 1;
        }
      }
    }
    t.true(failures > 1);
  });
}
