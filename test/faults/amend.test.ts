import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import type { AnyOptionValues } from '../../lib/core/options.ts';
import { createImage } from '../../lib/formats/create.ts';
import { qcow2 } from '../../lib/formats/qcow2.ts';
import { createGate } from '../../lib/sources/gate.ts';
import { openImage } from '../../lib/sources/open.ts';
import { faultyStorage, replayEvents, type StorageEvent } from '../../lib/storage/faulty.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import type { Storage } from '../../lib/storage/storage.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';

const SIZE = 400 * 1024;
const qemuImg = tool('qemu-img');
const base = { options: {}, writable: true, cache: 'writeback', gate: createGate(), backing: null } as const;

async function amend(storage: Storage, values: AnyOptionValues): Promise<void> {
  await qcow2.amend?.({ ...base, storage, values, force: false });
}

/** An image with data and zero clusters. */
async function subject(): Promise<Buffer> {
  const storage = memoryStorage('image');
  const options = { cluster_size: '512' };
  const target = await createImage({ filename: 'image', format: 'qcow2', size: SIZE, options, storage });
  await target.write(0, Buffer.alloc(300 * 1024, 1));
  await target.close();
  const again = memoryStorage('image', storage.bytes());
  const existing = await qcow2.openTarget?.({ ...base, storage: again });
  await existing?.zero(100 * 1024, 50 * 1024);
  await existing?.zero(200 * 1024, 50 * 1024, { unmap: true });
  await existing?.close();
  return again.bytes();
}

async function disk(bytes: Buffer): Promise<Buffer> {
  const opened = await openImage('image', { drivers: [qcow2], storage: memoryStorage('image', Buffer.from(bytes)) });
  const contents = Buffer.alloc(opened.chain.size);
  await opened.chain.read(0, contents);
  await opened.close();
  return contents;
}

const CHANGES: Readonly<Record<string, AnyOptionValues>> = {
  'the version': { compat: '0.10' },
  'the width of the refcounts': { refcount_bits: 64 },
  'flags and size': { lazy_refcounts: true, size: SIZE + 300 * 1024 },
};

for (const [name, values] of Object.entries(CHANGES)) {
  test(`whenever the power goes while ${name} changes, the disk stays what it was, and at worst something leaks`, async (t) => {
    if (qemuImg.missing(t)) return;
    const before = await subject();
    const old = await disk(before);
    const record: StorageEvent[] = [];
    await amend(faultyStorage(memoryStorage('image', Buffer.from(before)), { record }), values);
    t.true(record.length > 3);
    await withTmpDir(async (directory) => {
      const file = join(directory, 'x');
      for (let count = 0; count <= record.length; count += 1) {
        const memory = memoryStorage('image', Buffer.from(before));
        await replayEvents(record.slice(0, count), memory);
        const what = `after ${count} of ${record.length}`;
        t.true((await disk(memory.bytes())).subarray(0, SIZE).equals(old), what);
        writeFileSync(file, memory.bytes());
        const check = qemuImg.run(['check', '-f', 'qcow2', file]);
        t.true([0, 3].includes(check.status), `${what}: ${check.text}`);
      }
    });
  });

  for (const operation of ['write', 'flush'] as const) {
    test(`a ${operation} that fails while ${name} changes gives one error and an image that opens`, async (t) => {
      const before = await subject();
      const old = await disk(before);
      let failures = 0;
      for (let nth = 1; ; nth += 1) {
        const memory = memoryStorage('image', Buffer.from(before));
        const storage = faultyStorage(memory, { faults: [{ operation, nth, code: 'ENOSPC', lasting: true }] });
        const error = await amend(storage, values).then(
          () => null,
          (thrown) => thrown,
        );
        t.true((await disk(memory.bytes())).subarray(0, SIZE).equals(old), `${operation} ${nth}`);
        if (error === null) break;
        t.true(error instanceof ImageError);
        failures += 1;
      }
      t.true(failures > 1);
    });
  }
}
