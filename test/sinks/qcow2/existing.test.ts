import { closeSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { ImageError } from '../../../lib/core/errors.ts';
import { openTarget } from '../../../lib/formats/open-target.ts';
import { Autoclear, Incompatible } from '../../../lib/layouts/qcow2/index.ts';
import type { Target } from '../../../lib/sinks/target.ts';
import { pattern, Random } from '../../support/model.ts';
import { withTmpDir } from '../../support/tmp.ts';
import { tool } from '../../support/tools.ts';

const qemuImg = tool('qemu-img');
const qemuIo = tool('qemu-io');
const MiB = 1024 * 1024;
const SIZE = 6 * MiB;
const AUTOCLEAR_AT = 88;
const INCOMPATIBLE_AT = 72;

/** An image that qemu-img made, and what its disk must read as. */
interface Life {
  file: string;
  model: Buffer;
}

async function within(use: (life: Life, directory: string) => Promise<void>): Promise<void> {
  await withTmpDir((directory) => use({ file: join(directory, 'x.qcow2'), model: Buffer.alloc(SIZE) }, directory));
}

/** The image passes qemu-img's check, without leaks, and qemu-img reads from it what the model has. */
function verify({ file, model }: Life): void {
  const report = qemuImg.expect(['check', file]);
  if (!report.includes('No errors were found')) throw new Error(report);
  writeFileSync(`${file}.raw`, model);
  qemuImg.expect(['compare', '-f', 'raw', '-F', 'qcow2', `${file}.raw`, file]);
}

async function change({ file, model }: Life, work: (target: Target) => Promise<void>): Promise<void> {
  const target = await openTarget(file, { cache: 'unsafe' });
  await work(target);
  await target.close();
  verify({ file, model });
}

/** Random writes, zeroes and compressed writes, onto the image and its model at once. */
async function live({ model }: Life, target: Target, { random, steps }: { random: Random; steps: number }) {
  for (let step = 0; step < steps; step += 1) {
    const offset = random.below(SIZE - 1);
    const length = 1 + random.below(Math.min(SIZE - offset, random.pick([3000, 200_000])));
    const kind = random.below(10);
    if (kind < 6) {
      const bytes = pattern(length, random.below(200));
      bytes.copy(model, offset);
      const middle = length >> 1;
      // At once, though they may share a cluster.
      await Promise.all([
        target.write(offset, bytes.subarray(0, middle)),
        target.write(offset + middle, bytes.subarray(middle)),
      ]);
    } else if (kind < 8) {
      model.fill(0, offset, offset + length);
      await target.zero(offset, length, { unmap: kind === 6 });
    } else await writeCompressed({ model }, target, { offset, seed: random.below(200) });
  }
}

async function writeCompressed(
  { model }: Pick<Life, 'model'>,
  target: Target,
  { offset, seed }: { offset: number; seed: number },
): Promise<void> {
  const unit = target.compressor?.unit ?? 1;
  const start = Math.floor(offset / unit) * unit;
  const plain = pattern(Math.min(unit, SIZE - start), seed);
  const packed = await target.compressor?.compress(plain);
  if (!packed) return;
  plain.copy(model, start);
  await target.writeCompressed?.(start, plain.length, packed);
}

const KINDS = [
  'cluster_size=512',
  'cluster_size=64k',
  'cluster_size=2M',
  'compat=0.10,cluster_size=4k',
  'extended_l2=on,cluster_size=16k',
  'compression_type=zstd,cluster_size=8k,refcount_bits=64',
  'refcount_bits=8,cluster_size=4k',
  'lazy_refcounts=on,preallocation=metadata,cluster_size=32k',
];

for (const options of KINDS) {
  test(`an image that qemu-img made with ${options} is written over, again and again, with snapshots between`, async (t) => {
    if (qemuImg.missing(t)) return;
    await within(async (life) => {
      const random = new Random(options.length);
      qemuImg.expect(['create', '-q', '-f', 'qcow2', '-o', options, life.file, String(SIZE)]);
      const snapshots: Buffer[] = [];
      for (let round = 0; round < 4; round += 1) {
        await change(life, (target) => live(life, target, { random, steps: 60 }));
        if (round === 3) break;
        qemuImg.expect(['snapshot', '-c', `s${round}`, life.file]);
        snapshots.push(Buffer.from(life.model));
      }
      for (const [index, model] of snapshots.entries()) {
        qemuImg.expect(['convert', '-l', `s${index}`, '-O', 'raw', life.file, `${life.file}.snapshot`]);
        t.true(readFileSync(`${life.file}.snapshot`).equals(model), `snapshot ${index}`);
      }
      for (let index = 0; index < snapshots.length; index += 1)
        qemuImg.expect(['snapshot', '-d', `s${index}`, life.file]);
      verify(life);
    });
  });

  if (options.includes('preallocation')) continue;
  test(`writes onto an image with ${options} copy what surrounds them from a shorter backing file`, async (t) => {
    if (qemuImg.missing(t)) return;
    await within(async (life, directory) => {
      const base = pattern(SIZE - 3 * MiB + 512, 7);
      base.fill(0, 100_000, 400_000);
      base.copy(life.model);
      writeFileSync(join(directory, 'base.raw'), base);
      const args = ['create', '-q', '-f', 'qcow2', '-o', options, '-b', 'base.raw', '-F', 'raw'];
      qemuImg.expect([...args, life.file, String(SIZE)], { cwd: directory });
      await change(life, (target) => live(life, target, { random: new Random(3), steps: 150 }));
      t.pass();
    });
  });
}

test('an image marked dirty gets its refcounts rebuilt, also where whole blocks are lost', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  for (const options of [
    'lazy_refcounts=on',
    'lazy_refcounts=on,cluster_size=512',
    'lazy_refcounts=on,extended_l2=on',
  ]) {
    await within(async (life) => {
      const { file, model } = life;
      qemuImg.expect(['create', '-q', '-f', 'qcow2', '-o', options, file, String(SIZE)]);
      qemuIo.expect(['-c', 'write -P 1 0 3M', '-c', 'write -c -P 3 4M 64k', file]);
      qemuImg.expect(['snapshot', '-c', 's', file]);
      qemuIo.expect(['-c', 'write -P 4 1M 1M', file]);
      model
        .fill(1, 0, 3 * MiB)
        .fill(3, 4 * MiB, 4 * MiB + 65536)
        .fill(4, MiB, 2 * MiB);
      spoilRefcounts(file);
      await change(life, async (target) => {
        const bytes = pattern(300_000, 5);
        bytes.copy(model, 5 * MiB);
        await target.write(5 * MiB, bytes);
      });
      t.is(readFileSync(file).readBigUInt64BE(INCOMPATIBLE_AT) & Incompatible.dirty, 0n);
    });
  }
});

/** What a crash leaves of lazy refcounts: zeros where counts should be, and blocks that the table doesn't know. */
function spoilRefcounts(file: string): void {
  const bytes = readFileSync(file);
  const clusterSize = 2 ** bytes.readUInt32BE(20);
  const table = Number(bytes.readBigUInt64BE(48));
  const block = Number(bytes.readBigUInt64BE(table));
  bytes.fill(0, block + 8, block + clusterSize);
  if (clusterSize === 512) bytes.fill(0, table + 8, table + 16);
  bytes.writeBigUInt64BE(bytes.readBigUInt64BE(INCOMPATIBLE_AT) | Incompatible.dirty, INCOMPATIBLE_AT);
  writeFileSync(file, bytes);
}

test('an image marked dirty is not opened for writing where its tables can not be repaired', async (t) => {
  if (qemuImg.missing(t)) return;
  await within(async ({ file }) => {
    qemuImg.expect(['create', '-q', '-f', 'qcow2', '-o', 'preallocation=metadata', file, '1M']);
    spoilRefcounts(file);
    const bytes = readFileSync(file);
    const l2 = Number(bytes.readBigUInt64BE(Number(bytes.readBigUInt64BE(40))) & 0x00ff_ffff_ffff_fe00n);
    // A data cluster that does not begin where clusters begin.
    bytes.writeUInt32BE(bytes.readUInt32BE(l2 + 4) + 512, l2 + 4);
    writeFileSync(file, bytes);
    const error = await t.throwsAsync(openTarget(file, { format: 'qcow2' }), { instanceOf: ImageError });
    t.is((error as ImageError).kind, 'corrupt');
    t.regex(String(error?.message), /Could not repair dirty image/);
    t.not(readFileSync(file).readBigUInt64BE(INCOMPATIBLE_AT) & Incompatible.dirty, 0n);
  });
});

test('an image marked corrupt is not opened for writing', async (t) => {
  if (qemuImg.missing(t)) return;
  await within(async ({ file }) => {
    qemuImg.expect(['create', '-q', '-f', 'qcow2', file, '1M']);
    const flags = Buffer.alloc(8);
    flags.writeBigUInt64BE(Incompatible.corrupt);
    const descriptor = openSync(file, 'r+');
    writeSync(descriptor, flags, 0, 8, INCOMPATIBLE_AT);
    closeSync(descriptor);
    const before = readFileSync(file);
    await t.throwsAsync(openTarget(file), { name: 'ImageError', message: /corrupt; cannot be opened read\/write/ });
    t.true(readFileSync(file).equals(before));
  });
});

test('bitmaps that record writes can be relied on after a write, and so can disabled ones', async (t) => {
  if (qemuImg.missing(t)) return;
  await within(async (life) => {
    const { file, model } = life;
    qemuImg.expect(['create', '-q', '-f', 'qcow2', file, String(SIZE)]);
    qemuImg.expect(['bitmap', '--add', file, 'recording']);
    qemuImg.expect(['bitmap', '--add', '--disable', file, 'disabled']);
    await change(life, async (target) => {
      model.fill(1, 0, 70_000);
      await target.write(0, Buffer.alloc(70_000, 1));
    });
    const info = JSON.parse(qemuImg.expect(['info', '--output=json', file]));
    const flags = Object.fromEntries(
      info['format-specific'].data.bitmaps.map((bitmap: { name: string; flags: string[] }) => [
        bitmap.name,
        bitmap.flags,
      ]),
    );
    t.deepEqual(flags, { recording: ['auto'], disabled: [] });
    t.is(readFileSync(file).readBigUInt64BE(AUTOCLEAR_AT), Autoclear.bitmaps);
  });
});

test('autoclear bits that are not known are cleared by the first write', async (t) => {
  if (qemuImg.missing(t)) return;
  await within(async (life) => {
    const { file, model } = life;
    qemuImg.expect(['create', '-q', '-f', 'qcow2', file, String(SIZE)]);
    const bytes = readFileSync(file);
    bytes.writeBigUInt64BE(1n << 40n, AUTOCLEAR_AT);
    writeFileSync(file, bytes);
    await change(life, async (target) => {
      model[5] = 9;
      await target.write(5, Buffer.from([9]));
    });
    t.is(readFileSync(file).readBigUInt64BE(AUTOCLEAR_AT), 0n);
  });
});

test('an L2 entry that points into metadata does not let a write destroy it', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await within(async ({ file }) => {
    qemuImg.expect(['create', '-q', '-f', 'qcow2', file, '1M']);
    qemuIo.expect(['-c', 'write 0 64k', file]);
    const bytes = readFileSync(file);
    const l1 = Number(bytes.readBigUInt64BE(40));
    const l2 = Number(bytes.readBigUInt64BE(l1) & 0x00ff_ffff_ffff_fe00n);
    for (const victim of [l1, l2, Number(bytes.readBigUInt64BE(48))]) {
      bytes.writeBigUInt64BE((1n << 63n) | BigInt(victim), l2);
      writeFileSync(file, bytes);
      const target = await openTarget(file);
      await t.throwsAsync(target.write(0, Buffer.alloc(65536, 1)), { name: 'ImageError', message: /own metadata/ });
      await target.abort();
      t.true(readFileSync(file).equals(bytes));
    }
  });
});
