import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { createImage } from '../../lib/formats/create.ts';
import { qcow2 } from '../../lib/formats/qcow2.ts';
import { decodeHeader, Incompatible } from '../../lib/layouts/qcow2/index.ts';
import type { Qcow2SnapshotEditor } from '../../lib/sinks/qcow2/snapshots/editor.ts';
import { createGate } from '../../lib/sources/gate.ts';
import { openImage } from '../../lib/sources/open.ts';
import { faultyStorage, replayEvents, type StorageEvent } from '../../lib/storage/faulty.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import type { Storage } from '../../lib/storage/storage.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';

const SIZE = 400 * 1024;
const qemuImg = tool('qemu-img');

async function editor(storage: Storage): Promise<Qcow2SnapshotEditor> {
  const request = {
    storage,
    options: {},
    writable: true,
    cache: 'writeback',
    gate: createGate(),
    backing: null,
  } as const;
  return (await qcow2.openSnapshots?.(request)) as Qcow2SnapshotEditor;
}

async function write(storage: Storage, value: number, offset: number, length: number): Promise<void> {
  const request = {
    storage,
    options: {},
    writable: true,
    cache: 'writeback',
    gate: createGate(),
    backing: null,
  } as const;
  const target = await qcow2.openTarget?.(request);
  await target?.write(offset, Buffer.alloc(length, value));
  await target?.close();
}

/** What is in the storage after `work`, which begins with `bytes` there. */
async function after(bytes: Buffer, work: (storage: Storage) => Promise<void>): Promise<Buffer> {
  const storage = memoryStorage('image', Buffer.from(bytes));
  await work(storage);
  return storage.bytes();
}

/** An image with a snapshot `old`, changed since. */
async function subject(): Promise<Buffer> {
  const options = { cluster_size: '512' };
  let bytes = await after(Buffer.alloc(0), async (storage) =>
    (await createImage({ filename: 'image', format: 'qcow2', size: SIZE, options, storage })).close(),
  );
  bytes = await after(bytes, (storage) => write(storage, 1, 0, 300 * 1024));
  bytes = await after(bytes, async (storage) => {
    const snapshots = await editor(storage);
    await snapshots.create('old');
    await snapshots.close();
  });
  return after(bytes, (storage) => write(storage, 2, 100_000, 50_000));
}

async function disk(bytes: Buffer, snapshot?: string): Promise<Buffer> {
  const opened = await openImage('image', {
    drivers: [qcow2],
    storage: memoryStorage('image', Buffer.from(bytes)),
    snapshot: snapshot === undefined ? undefined : { name: snapshot },
  });
  const contents = Buffer.alloc(opened.chain.size);
  await opened.chain.read(0, contents);
  await opened.close();
  return contents;
}

const OPERATIONS: Readonly<Record<string, (snapshots: Qcow2SnapshotEditor) => Promise<void>>> = {
  create: (snapshots) => snapshots.create('new'),
  apply: (snapshots) => snapshots.apply('old'),
  delete: (snapshots) => snapshots.delete({ name: 'old' }),
};

for (const [name, work] of Object.entries(OPERATIONS)) {
  test(`whenever the power goes in ${name}, the disk is old or new, and at worst something leaks`, async (t) => {
    if (qemuImg.missing(t)) return;
    const before = await subject();
    const [old, snapshot] = [await disk(before), await disk(before, 'old')];
    const record: StorageEvent[] = [];
    const snapshots = await editor(faultyStorage(memoryStorage('image', Buffer.from(before)), { record }));
    await work(snapshots);
    await snapshots.close();
    t.true(record.length > 5);
    let dirty = 0;
    await withTmpDir(async (directory) => {
      const file = join(directory, 'x');
      for (let count = 0; count <= record.length; count += 1) {
        const memory = memoryStorage('image', Buffer.from(before));
        await replayEvents(record.slice(0, count), memory);
        const bytes = memory.bytes();
        const what = `${name}: after ${count} of ${record.length}`;
        const shown = await disk(bytes);
        t.true(shown.equals(old) || (name === 'apply' && shown.equals(snapshot)), what);
        const isDirty = (decodeHeader(bytes).incompatible & Incompatible.dirty) !== 0n;
        if (isDirty) {
          dirty += 1;
          // Whoever writes to it next makes the refcounts anew.
          await (await editor(memory)).close();
        }
        writeFileSync(file, memory.bytes());
        t.true([0, 3].includes(qemuImg.run(['check', '-f', 'qcow2', file]).status), what);
        t.true((await disk(memory.bytes())).equals(shown), what);
      }
    });
    t.is(dirty > 0, name !== 'apply');
  });

  for (const operation of ['write', 'flush'] as const) {
    test(`a ${operation} that fails in ${name} gives one error and an image that opens`, async (t) => {
      const before = await subject();
      const [old, snapshot] = [await disk(before), await disk(before, 'old')];
      let failures = 0;
      for (let nth = 1; ; nth += 1) {
        const memory = memoryStorage('image', Buffer.from(before));
        const snapshots = await editor(
          faultyStorage(memory, { faults: [{ operation, nth, code: 'ENOSPC', lasting: true }] }),
        );
        const error = await work(snapshots).then(
          () => null,
          (thrown) => thrown,
        );
        await snapshots.close().catch(() => {});
        const shown = await disk(memory.bytes());
        t.true(shown.equals(old) || (name === 'apply' && shown.equals(snapshot)), `${operation} ${nth}`);
        if (error === null) break;
        t.true(error instanceof ImageError);
        failures += 1;
      }
      t.true(failures > 3);
    });
  }
}
