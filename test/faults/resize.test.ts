import test, { type ExecutionContext } from 'ava';
import { createImage, createSnapshot, ImageError, openTarget, type ResizeOptions, resize } from '../../lib/index.ts';
import { SECRETS as secrets } from '../conformance/facts.ts';
import { pattern } from '../support/model.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { eachCrash, type Files, Machine } from './power.ts';
import { assertSound, readImage } from './sound.ts';
import { firstForeign } from './subjects.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const SIZE = 300 * KIB;
/** Of all moments, qemu-img looks at one of so many. */
const SAMPLE = 17;

interface Case {
  format: string;
  options?: Readonly<Record<string, string>>;
  /** Guest bytes, default `SIZE`. */
  from?: number;
  to: number;
  preallocation?: string;
  /** Guest ranges that are written before; default: most of the disk, and its end. */
  written?: readonly (readonly [offset: number, length: number])[];
  /** A snapshot is taken, and then all is written anew. */
  snapshot?: boolean;
  /** Bytes of a raw backing file. */
  backing?: number;
  /** First cut to this size: its last cluster still holds what was there. */
  cutTo?: number;
  /** Options that an encrypted image is made and opened with. */
  key?: Readonly<Record<string, string>>;
  /** What is added reads as anything, as qemu-img leaves it. */
  noisy?: boolean;
  /** The format has no check. */
  unchecked?: boolean;
  /** Looked at so many moments; images of megabytes take their time. */
  moments?: number;
}

const SMALL = { cluster_size: '512' };

const LUKS = { 'encrypt.format': 'luks', 'encrypt.iter-time': '1' };
const [KEY_ID] = secrets.keys();
const KEY = { 'encrypt.key-secret': KEY_ID };
const LUKS_IMAGE = {
  format: 'luks',
  options: { 'iter-time': '1' },
  key: { 'key-secret': KEY_ID },
  noisy: true,
  unchecked: true,
};

const RAW = { format: 'raw', unchecked: true };

const CASES: Readonly<Record<string, Case>> = {
  'growing a raw image': { ...RAW, to: SIZE * 2 },
  'growing a raw image with its space': { ...RAW, to: SIZE * 2 + 512, preallocation: 'full' },
  'shrinking a raw image': { ...RAW, to: SIZE / 3 },
  'growing a qcow2 image': { format: 'qcow2', options: { cluster_size: '4096' }, to: SIZE * 3 },
  'growing a qcow2 image whose L1 table moves': { format: 'qcow2', options: SMALL, to: SIZE * 9 },
  'growing a qcow2 image of version 2': { format: 'qcow2', options: { ...SMALL, compat: '0.10' }, to: SIZE * 3 },
  'growing a qcow2 image with a snapshot': { format: 'qcow2', options: SMALL, to: SIZE * 3, snapshot: true },
  'growing a qcow2 image that was cut inside a cluster': {
    ...{ format: 'qcow2', options: { cluster_size: '65536' } },
    ...{ cutTo: 150 * KIB, to: 250 * KIB },
  },
  'growing a qcow2 image of version 2 that was cut inside a cluster': {
    ...{ format: 'qcow2', options: { cluster_size: '65536', compat: '0.10' } },
    ...{ cutTo: 150 * KIB, to: 250 * KIB },
  },
  'growing a qcow2 image over a longer backing file': {
    ...{ format: 'qcow2', options: { cluster_size: '4096' } },
    ...{ written: [[10_000, 50_000]], backing: SIZE * 2, to: SIZE * 3 },
  },
  'growing a qcow2 image of version 2 over a longer backing file': {
    ...{ format: 'qcow2', options: { cluster_size: '4096', compat: '0.10' } },
    ...{ written: [[10_000, 50_000]], backing: SIZE + 40 * KIB, to: SIZE * 3 },
  },
  'growing subclusters over a longer backing file': {
    ...{ format: 'qcow2', options: { cluster_size: '16384', extended_l2: 'on' } },
    ...{ written: [[10_000, 50_000]], backing: SIZE * 2, to: SIZE * 3 },
  },
  'growing a qcow2 image with its tables': {
    ...{ format: 'qcow2', options: { cluster_size: '4096' } },
    ...{ to: SIZE * 3, preallocation: 'metadata' },
  },
  'growing a qcow2 image with its space': {
    ...{ format: 'qcow2', options: SMALL },
    ...{ to: SIZE * 2, preallocation: 'falloc' },
  },
  'growing a qcow2 image with its space written': {
    ...{ format: 'qcow2', options: { cluster_size: '4096' } },
    ...{ to: SIZE * 2, preallocation: 'full' },
  },
  'shrinking a qcow2 image': { format: 'qcow2', options: SMALL, to: SIZE / 3 },
  'shrinking a qcow2 image of version 2': { format: 'qcow2', options: { ...SMALL, compat: '0.10' }, to: SIZE / 3 },
  'shrinking a qcow2 image with a snapshot': { format: 'qcow2', options: SMALL, to: SIZE / 3, snapshot: true },
  'shrinking subclusters': {
    ...{ format: 'qcow2', options: { cluster_size: '16384', extended_l2: 'on' } },
    ...{ to: SIZE / 3 - 512 },
  },
  'shrinking a qcow2 image with a backing file': {
    ...{ format: 'qcow2', options: { cluster_size: '4096' } },
    ...{ backing: SIZE, written: [[10_000, 250_000]], to: SIZE / 3 },
  },
  'growing a qed image': { format: 'qed', options: { cluster_size: '4096', table_size: '2' }, to: SIZE * 3 },
  'growing a qed image over a longer backing file': {
    ...{ format: 'qed', options: { cluster_size: '4096', table_size: '2' } },
    ...{ written: [[10_000, 50_000]], backing: SIZE * 2, to: SIZE * 3 },
  },
  'growing an encrypted qcow2 image over a longer backing file': {
    ...{ format: 'qcow2', options: { cluster_size: '4096', ...LUKS }, key: KEY },
    ...{ written: [[10_000, 50_000]], backing: SIZE * 2, from: SIZE - 1024, to: SIZE * 3 },
  },
  'shrinking an encrypted qcow2 image': {
    ...{ format: 'qcow2', options: { cluster_size: '4096', ...LUKS }, key: KEY },
    ...{ to: SIZE / 3, snapshot: true },
  },
  'growing a luks image': { ...LUKS_IMAGE, to: SIZE * 2 },
  'shrinking a luks image': { ...LUKS_IMAGE, to: SIZE / 3 },
  'growing a vhdx image that was cut inside a block': {
    ...{ format: 'vhdx', options: { block_size: '1048576' } },
    ...{ from: 3 * MIB, cutTo: 1.5 * MIB, to: 6 * MIB, written: [[0, 2 * MIB]], moments: 10 },
  },
};

interface Subject {
  machine: Machine;
  start: Files;
  /** What the disk was, and (of what has it) the snapshot. */
  old: Buffer;
  saved: Buffer | null;
  /** What shows where the image holds nothing. */
  beneath: Buffer;
  run: () => Promise<unknown>;
}

async function subject(each: Case): Promise<Subject> {
  const {
    format,
    options,
    from = SIZE,
    to,
    preallocation,
    backing,
    cutTo,
    written = [
      [0, from / 2],
      [from - 9000, 9000],
    ],
  } = each;
  const { key = {} } = each;
  const machine = new Machine(key);
  const image = machine.image('image', format);
  const beneath = backing === undefined ? Buffer.alloc(0) : pattern(backing, 9);
  machine.put(new Map([['base', beneath]]));
  const made = await createImage({
    ...{ filename: machine.name('image'), format, size: from, options: { ...options, ...key }, secrets },
    ...(backing !== undefined && { backing: { filename: machine.name('base'), format: 'raw' } }),
  });
  for (const [offset, length] of written) await made.write(offset, pattern(length, 1));
  await made.close();
  if (each.snapshot) {
    await createSnapshot('before', { image, secrets });
    const target = await openTarget(image, { secrets });
    for (const [offset, length] of written) await target.write(offset + 512, pattern(length - 1024, 2));
    await target.close();
  }
  if (cutTo !== undefined) await resize({ image, secrets, size: cutTo, shrink: true });
  const asked: ResizeOptions = { image, secrets, size: to, preallocation, shrink: true };
  return {
    ...{ machine, start: new Map([['image', machine.bytes('image')]]), beneath },
    old: await readImage(machine, 'image', format),
    saved: each.snapshot ? await readImage(machine, 'image', format, 'before') : null,
    run: () => resize(asked),
  };
}

/**
 * Null where the disk has its old size or the new one, and each byte is what it was, behind the old end zero, and behind the
 * new end what it was or nothing's; else what is wrong.
 */
function wrongWith(found: Buffer, { old, beneath }: Subject, { to, noisy }: Case): string | null {
  if (found.length !== old.length && found.length !== to) return `${found.length} bytes`;
  const kept = Math.min(old.length, to);
  if (noisy && found.length > old.length)
    return firstForeign(found.subarray(0, kept), [old]) < 0 ? null : 'the disk is another';
  const blank = Buffer.alloc(found.length);
  const others = [old, beneath].map((each) => Buffer.concat([each], Math.max(found.length, each.length)));
  const wrong = found.equals(old) ? -1 : firstForeign(found.subarray(0, kept), [old]);
  if (wrong >= 0) return `byte ${wrong} is another`;
  const allowed = found.length > old.length ? [blank] : [blank, ...others];
  const foreign = firstForeign(
    found.subarray(kept),
    allowed.map((each) => each.subarray(kept)),
  );
  return foreign < 0 ? null : `byte ${kept + foreign} is ${found[kept + foreign]}`;
}

async function assertOldOrNew(t: ExecutionContext, of: Subject, each: Case, what: string): Promise<Buffer> {
  const found = await readImage(of.machine, 'image', each.format);
  t.is(wrongWith(found, of, each), null, what);
  if (of.saved !== null) {
    // As in qemu-img, a snapshot that is read through is as long as the disk is now.
    const saved = (await readImage(of.machine, 'image', each.format, 'before')).subarray(0, of.saved.length);
    t.true(saved.equals(of.saved), what);
  }
  return found;
}

for (const [name, each] of Object.entries(CASES)) {
  test(`${name}: whenever the power goes, the disk is as long as before or as asked for, and what was on it is there`, async (t) => {
    const of = await subject(each);
    const events = await of.machine.record(of.run);
    t.is((await assertOldOrNew(t, of, each, 'at the end')).length, each.to);
    t.true(events.length >= (each.unchecked ? 1 : 3));
    await withTmpDir((directory) =>
      eachCrash(
        of.machine,
        { start: of.start, events },
        async (what, moment) => {
          await assertOldOrNew(t, of, each, what);
          if (each.unchecked) return;
          const sampled = moment % SAMPLE === 0 && tool('qemu-img').available;
          const how = { format: each.format, what, directory: sampled ? directory : undefined };
          await assertSound(t, of.machine, 'image', how);
        },
        { moments: each.moments },
      ),
    );
  });

  test(`${name}: a failure at any write, flush or truncation is one error, and the disk is old or new`, async (t) => {
    const of = await subject(each);
    let failures = 0;
    for (const operation of ['write', 'flush', 'truncate', 'allocate', 'zero'] as const) {
      for (const lasting of each.moments === undefined ? [true, false] : [true]) {
        for (let nth = 1, idle = 0; idle < 2; nth += 1) {
          of.machine.put(of.start);
          const error = await of.machine.fail('image', [{ operation, nth, code: 'ENOSPC', lasting }], of.run);
          const what = `${operation} ${nth}${lasting ? ' and on' : ''}`;
          if (error !== null)
            t.true(error instanceof ImageError && error.code === 'ENOSPC', `${what}: ${(error as Error).stack}`);
          await assertOldOrNew(t, of, each, what);
          if (!each.unchecked) await assertSound(t, of.machine, 'image', { format: each.format, what });
          failures += error === null ? 0 : 1;
          idle = error === null ? idle + 1 : 0;
        }
      }
    }
    t.true(failures > 0);
  });
}
