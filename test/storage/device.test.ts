import { closeSync, openSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { openFile } from '../../lib/storage/file.ts';
import { openStorage } from '../../lib/storage/index.ts';
import { overrideSystemCalls, systemCalls } from '../../lib/syscalls/calls.ts';
import { deviceSize } from '../../lib/syscalls/device.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { pattern } from './model.ts';

const SIZE = 4 << 20;

/** Calls `use` with a loop device of `SIZE` bytes of pattern; passes with a reason where there can't be one. */
async function withDevice(t: ExecutionContext, use: (device: string, bytes: Buffer) => Promise<void>): Promise<void> {
  const losetup = tool('losetup');
  if (losetup.missing(t)) return;
  await withTmpDir(async (directory) => {
    const path = join(directory, 'disk');
    const bytes = pattern(SIZE, 7);
    writeFileSync(path, bytes);
    const { status, text, stderr } = losetup.run(['-f', '--show', path]);
    const device = text.trim();
    if (status !== 0 || !device.startsWith('/dev/')) {
      t.log(`skipped: no loop device (${stderr.trim()})`);
      return t.pass();
    }
    try {
      await use(device, bytes);
    } finally {
      losetup.run(['-d', device]);
    }
  });
}

test.serial('a block device has its size and its bytes', async (t) => {
  await withDevice(t, async (device, bytes) => {
    for (const cache of ['writeback', 'none'] as const) {
      const storage = await openFile(device, { cache });
      t.is(storage.size, SIZE);
      t.true(storage.fixedSize);
      t.is(storage.protocol, 'host_device');
      const found = Buffer.alloc(SIZE - 1000);
      await storage.read(1000, found);
      t.true(found.equals(bytes.subarray(1000)));
      t.deepEqual(await storage.holes(0, 2 * SIZE), [{ offset: 0, length: SIZE, hole: false }]);
      await storage.close();
    }
  });
});

test.serial('the size is the same from sysfs and from the device', async (t) => {
  await withDevice(t, async (device) => {
    const fd = openSync(device, 'r');
    const { rdev } = statSync(device);
    t.is(await deviceSize(fd, rdev), SIZE);
    // No device has this number, so sysfs knows nothing.
    if ((await systemCalls()) !== null) t.is(await deviceSize(fd, 0xfffff), SIZE);
    closeSync(fd);
  });
});

for (const calls of ['with', 'without'] as const) {
  test.serial(`zeros and writes reach a block device ${calls} system calls, at any alignment`, async (t) => {
    await withDevice(t, async (device, bytes) => {
      if (calls === 'without') overrideSystemCalls(null);
      try {
        const storage = await openFile(device, { writable: true });
        await storage.zero(4096, 65_536);
        await storage.zero(100_001, 3001, { unmap: true });
        await storage.zero(204_800, 8192, { unmap: true });
        await storage.write(300_001, pattern(10_000, 1));
        await storage.flush();
        bytes
          .fill(0, 4096, 4096 + 65_536)
          .fill(0, 100_001, 103_002)
          .fill(0, 204_800, 212_992);
        pattern(10_000, 1).copy(bytes, 300_001);
        const found = Buffer.alloc(SIZE);
        await storage.read(0, found);
        t.true(found.equals(bytes));
        await storage.discard(1_000_001, 500_000);
        await storage.read(0, found);
        t.true(found.subarray(0, 1_000_001).equals(bytes.subarray(0, 1_000_001)));
        t.true(found.subarray(1_500_001).equals(bytes.subarray(1_500_001)));
        await storage.close();
      } finally {
        overrideSystemCalls(undefined);
      }
    });
  });
}

test.serial('a block device neither grows nor shrinks', async (t) => {
  await withDevice(t, async (device) => {
    const storage = await openFile(device, { create: true, truncate: true });
    t.is(storage.size, SIZE);
    await t.throwsAsync(storage.truncate(SIZE + 512), { instanceOf: ImageError, message: 'Cannot grow device files' });
    await storage.truncate(512);
    t.is(storage.size, SIZE);
    await t.throwsAsync(storage.write(SIZE - 5, Buffer.alloc(10)), { instanceOf: ImageError, code: 'ENOSPC' });
    await t.throwsAsync(storage.zero(SIZE - 5, 10), { instanceOf: ImageError, code: 'ENOSPC' });
    await storage.close({ discard: true });
    t.true(statSync(device).isBlockDevice());
  });
});

test.serial('the driver for devices refuses files', async (t) => {
  await withTmpDir(async (directory) => {
    const path = join(directory, 'x');
    writeFileSync(path, 'hello');
    await t.throwsAsync(openStorage({ driver: 'host_device', filename: path }), {
      message: `'host_device' driver requires '${path}' to be either a character or block device`,
    });
  });
});
