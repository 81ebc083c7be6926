import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { ImageError } from '../../../lib/core/errors.ts';
import type { SnapshotSelector } from '../../../lib/sources/source.ts';
import { withTmpDir } from '../../support/tmp.ts';
import { open, qemuImg, qemuIo, qemuRaw, readAll, withImage } from '../oracle.ts';

/** Three snapshots, one of which is named like another's id; then the disk grows. */
function makeImage(directory: string): string {
  const base = join(directory, 'base.qcow2');
  const file = join(directory, 'image.qcow2');
  qemuImg.expect(['create', '-q', '-f', 'qcow2', base, '3M']);
  qemuIo.expect(['-f', 'qcow2', '-c', 'write -P 9 1M 2M', base]);
  qemuImg.expect(['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', file, '2M']);
  for (const [index, name] of ['one', 'two', '1'].entries()) {
    qemuIo.expect(['-f', 'qcow2', '-c', `write -P ${index + 1} 0 ${64 * (index + 1)}k`, file]);
    qemuImg.expect(['snapshot', '-c', name, file]);
  }
  qemuImg.expect(['resize', '-q', file, '3M']);
  qemuIo.expect(['-f', 'qcow2', '-c', 'write -P 7 0 3M', file]);
  return file;
}

const SELECTORS: { text: string; selector: SnapshotSelector }[] = [
  { text: 'one', selector: { idOrName: 'one' } },
  { text: '1', selector: { idOrName: '1' } },
  { text: '3', selector: { idOrName: '3' } },
  { text: 'snapshot.id=1', selector: { id: '1' } },
  { text: 'snapshot.name=1', selector: { name: '1' } },
  { text: 'snapshot.id=2,snapshot.name=two', selector: { id: '2', name: 'two' } },
];

test('a snapshot is found and read as qemu-img convert -l does', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const file = makeImage(directory);
    for (const { text, selector } of SELECTORS) {
      const expected = qemuRaw(directory, ['-l', text, file]);
      await withImage(file, async ({ chain }) => t.true((await readAll(chain)).equals(expected), text), {
        snapshot: selector,
      });
    }
  });
});

test('a snapshot that is not there is told as qemu-img tells it', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const file = makeImage(directory);
    const none = await t.throwsAsync(open(file, { snapshot: { id: '1', name: 'two' } }), { instanceOf: ImageError });
    const args = ['convert', '-O', 'raw', '-l', 'snapshot.id=1,snapshot.name=two', file, join(directory, 'x')];
    t.is(`qemu-img: ${none.message}\n`, qemuImg.run(args).stderr);
    const raw = join(directory, 'raw');
    writeFileSync(raw, Buffer.alloc(512));
    const never = await t.throwsAsync(open(raw, { format: 'raw', snapshot: { idOrName: 'x' } }), {
      instanceOf: ImageError,
    });
    const rawArgs = ['convert', '-f', 'raw', '-O', 'raw', '-l', 'x', raw, join(directory, 'x')];
    t.is(`qemu-img: ${never.message}\n`, qemuImg.run(rawArgs).stderr);
  });
});

test('snapshots are listed with all that qemu-img shows of them', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const file = makeImage(directory);
    const expected = JSON.parse(qemuImg.expect(['info', '--output=json', file])).snapshots;
    await withImage(file, async ({ source }) => {
      const snapshots = (await source.describe()).snapshots ?? [];
      t.deepEqual(
        snapshots.map(({ id, name, vmStateSize, dateSeconds, dateNanoseconds, icount }) => ({
          id,
          name,
          'vm-state-size': vmStateSize,
          'date-sec': dateSeconds,
          'date-nsec': dateNanoseconds,
          icount: Number(icount),
        })),
        expected.map(({ 'vm-clock-sec': _s, 'vm-clock-nsec': _n, ...rest }: Record<string, unknown>) => rest),
      );
      t.is(snapshots[0].diskSize, 2 * 1024 * 1024);
    });
  });
});

test('a snapshot table that lies is an error, not a surprise', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const file = makeImage(directory);
    const good = readFileSync(file);
    const table = Number(good.readBigUInt64BE(64));
    const lies: [number, number][] = [
      [60, 65537],
      [60, 4000],
      [64, 0x7fffffff],
      [table + 36, 0xffffffff],
      [table + 8, 0x10000000],
      [table + 0, 0x00100000],
      [table + 4, 0x00000200],
    ];
    for (const [at, value] of lies) {
      const bytes = Buffer.from(good);
      bytes.writeUInt32BE(value, at);
      writeFileSync(file, bytes);
      const error = await t.throwsAsync(open(file, { snapshot: { idOrName: 'one' } }), { instanceOf: ImageError });
      t.is(error.file, file, `${at}: ${error.message}`);
      t.is(error.format, 'qcow2');
    }
  });
});
