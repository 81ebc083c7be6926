import { spawn } from 'node:child_process';
import { closeSync, openSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { openStorage } from '../../lib/storage/index.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { sliceStorage } from '../../lib/storage/slice.ts';
import type { LockRequest, Storage } from '../../lib/storage/storage.ts';
import { WrappedStorage } from '../../lib/storage/wrapped.ts';
import { overrideSystemCalls } from '../../lib/syscalls/calls.ts';
import { lockCalls } from '../../lib/syscalls/locks.ts';
import { withTmpDir } from '../support/tmp.ts';

const READING: LockRequest = { uses: ['consistent read'], denies: ['write', 'resize'] };
const WRITING: LockRequest = { uses: ['consistent read', 'write', 'resize'], denies: ['write', 'resize'] };

/** Storages of one file, each with a descriptor of its own, as other processes would have it. */
async function withFile(
  t: ExecutionContext,
  use: (open: (options?: Record<string, unknown>) => Promise<Storage>, path: string) => Promise<void>,
): Promise<void> {
  if ((await lockCalls()) === null) {
    t.log('skipped: no locks here');
    t.pass();
    return;
  }
  await withTmpDir(async (directory) => {
    const filename = join(directory, 'x');
    writeFileSync(filename, 'hello');
    const opened: Storage[] = [];
    try {
      await use(async (options = {}) => {
        const storage = await openStorage({ driver: 'file', filename, ...options }, { writable: true });
        opened.push(storage);
        return storage;
      }, filename);
    } finally {
      for (const storage of opened) await storage.close();
    }
  });
}

async function refused(t: ExecutionContext, storage: Storage, request: LockRequest, what: string): Promise<void> {
  const error = await t.throwsAsync(async () => storage.lock?.(request), { instanceOf: ImageError });
  t.is(error?.kind, 'locked');
  t.is(error?.message, `Failed to get ${what} lock\nIs another process using the image [${storage.name}]?`);
}

test.serial('readers share a file, and a writer has it for himself', async (t) => {
  await withFile(t, async (open) => {
    const [one, other, writer] = [await open(), await open(), await open()];
    await one.lock?.(READING);
    await other.lock?.(READING);
    await refused(t, writer, WRITING, '"write"');
    await one.close();
    await refused(t, writer, WRITING, '"write"');
    await other.close();
    await writer.lock?.(WRITING);
    await refused(t, await open(), READING, 'shared "write"');
    await refused(t, await open(), WRITING, '"write"');
    await refused(t, await open(), { uses: ['resize'], denies: [] }, '"resize"');
    // Who minds nobody may look on.
    await (await open()).lock?.({ uses: ['consistent read'], denies: [] });
    await writer.close();
    await (await open()).lock?.(READING);
  });
});

test.serial('what was refused leaves nothing behind, and what was granted before it stays', async (t) => {
  await withFile(t, async (open) => {
    const [reader, growing] = [await open(), await open()];
    await growing.lock?.({ uses: ['consistent read'], denies: [] });
    await reader.lock?.({ uses: [], denies: ['resize'] });
    await refused(t, growing, { uses: ['write', 'resize'], denies: [] }, '"resize"');
    // Nothing of the refused request is held, `write` neither.
    await (await open()).lock?.({ uses: [], denies: ['write', 'resize'] });
    await refused(t, await open(), { uses: [], denies: ['consistent read'] }, 'shared "consistent read"');
  });
});

test.serial('a storage may take more as time goes on', async (t) => {
  await withFile(t, async (open) => {
    const storage = await open();
    await storage.lock?.(READING);
    await storage.lock?.({ uses: ['write'], denies: [] });
    await refused(t, await open(), READING, 'shared "write"');
    await refused(t, await open(), { uses: ['resize'], denies: [] }, '"resize"');
  });
});

test.serial(
  'storages of one image do not stand against each other, and the last one has the locks of all',
  async (t) => {
    await withFile(t, async (open) => {
      const image = {};
      const [first, second, third] = [await open(), await open(), await open()];
      await first.lock?.({ ...READING, image });
      await second.lock?.({ ...WRITING, image });
      await third.lock?.({ ...WRITING, image });
      await refused(t, await open(), READING, 'shared "write"');
      await second.close();
      await first.close();
      await refused(t, await open(), READING, 'shared "write"');
      await refused(t, await open(), { ...READING, image: {} }, 'shared "write"');
      await third.close();
      const later = await open();
      await later.lock?.({ ...WRITING, image });
      await refused(t, await open(), READING, 'shared "write"');
      await later.close();
      await (await open()).lock?.(READING);
    });
  },
);

test.serial('locks go with the storage, though another process has its descriptor', async (t) => {
  await withFile(t, async (open, path) => {
    const { openFile } = await import('../../lib/storage/file.ts');
    const fd = openSync(path, 'r+');
    const heir = spawn('sleep', ['60'], { stdio: ['ignore', 'ignore', 'ignore', fd] });
    try {
      const storage = await openFile(path, { fd, writable: true });
      await storage.lock?.(WRITING);
      await refused(t, await open(), READING, 'shared "write"');
      await storage.close();
      await (await open()).lock?.(READING);
    } finally {
      heir.kill();
    }
  });
});

test.serial('windows and wrappers lock what is beneath, and memory has no locks', async (t) => {
  t.is((memoryStorage('m') as Storage).lock, undefined);
  await sliceStorage(memoryStorage('m', Buffer.alloc(10)), { offset: 0, size: 5 }).lock?.(WRITING);
  await withFile(t, async (open) => {
    const wrapped = new WrappedStorage(sliceStorage(await open(), { offset: 1, size: 2 }));
    await wrapped.lock(WRITING);
    await refused(t, await open(), READING, 'shared "write"');
    await wrapped.close();
    await (await open()).lock?.(READING);
  });
});

test.serial('locking=off takes none and minds none', async (t) => {
  await withFile(t, async (open) => {
    const writer = await open({ locking: 'on' });
    await writer.lock?.(WRITING);
    for (const locking of ['off', false]) await (await open({ locking })).lock?.(WRITING);
    await refused(t, await open({ locking: 'auto' }), READING, 'shared "write"');
    await writer.close();
    await (await open()).lock?.(READING);
  });
});

test.serial('without locks all goes on, unless they are demanded', async (t) => {
  await withFile(t, async (open) => {
    overrideSystemCalls(null);
    try {
      const [one, other] = [await open(), await open()];
      await one.lock?.(WRITING);
      await other.lock?.(WRITING);
      const error = await t.throwsAsync(async () => (await open({ locking: 'on' })).lock?.(READING), {
        instanceOf: ImageError,
      });
      t.is(error?.kind, 'unsupported');
    } finally {
      overrideSystemCalls(undefined);
    }
  });
});

test.serial('a file that can’t be locked is like one without locks', async (t) => {
  const calls = await lockCalls();
  if (calls === null) {
    t.log('skipped: no locks here');
    return t.pass();
  }
  t.throws(() => calls.share(-1, 100), { code: 'EBADF' });
  // Written to only: the lock for reading that is asked for can't be had.
  const { FileLocks } = await import('../../lib/storage/locks.ts');
  await withTmpDir(async (directory) => {
    const fd = openSync(join(directory, 'x'), 'w');
    try {
      const file = { name: 'x', fd, identity: 'x' };
      await new FileLocks({ ...file, locking: 'auto' }).acquire(WRITING);
      await t.throwsAsync(new FileLocks({ ...file, locking: 'on' }).acquire(WRITING), { message: /EBADF/ });
    } finally {
      closeSync(fd);
    }
  });
});
