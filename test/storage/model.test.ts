import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import { openFile } from '../../lib/storage/file.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import type { CacheMode, Storage } from '../../lib/storage/storage.ts';
import { overrideSystemCalls } from '../../lib/syscalls/calls.ts';
import { withTmpDir } from '../support/tmp.ts';
import { followModel, steps } from './model.ts';

/** Runs random steps on storages that `make` opens, one after the other. */
async function property(make: (path: string) => Promise<Storage>, numRuns: number): Promise<void> {
  await withTmpDir(async (directory) => {
    let count = 0;
    await fc.assert(
      fc.asyncProperty(steps, async (all) => {
        count += 1;
        const storage = await make(join(directory, `file${count}`));
        try {
          await followModel(storage, all);
        } finally {
          await storage.close({ discard: true });
        }
      }),
      { numRuns },
    );
  });
}

test.serial('memory behaves like a plain buffer', async (t) => {
  await property(async (path) => memoryStorage(path), 200);
  t.pass();
});

const modes: CacheMode[] = ['writeback', 'unsafe', 'none', 'writethrough', 'directsync'];
for (const cache of modes) {
  test.serial(`a file behaves like a plain buffer with cache mode ${cache}`, async (t) => {
    const synchronous = cache === 'writethrough' || cache === 'directsync';
    await property((path) => openFile(path, { create: true, cache }), synchronous ? 8 : 60);
    t.pass();
  });
}

for (const cache of ['writeback', 'none'] as const) {
  test.serial(`a file behaves like a plain buffer without system calls with cache mode ${cache}`, async (t) => {
    overrideSystemCalls(null);
    try {
      await property((path) => openFile(path, { create: true, cache }), 60);
    } finally {
      overrideSystemCalls(undefined);
    }
    t.pass();
  });
}
