import { join } from 'node:path';
import test from 'ava';
import { openFile } from '../../lib/storage/file.ts';
import { FALLOCATE, overrideSystemCalls, type SystemCalls } from '../../lib/syscalls/calls.ts';
import { SystemCallError } from '../../lib/syscalls/libc.ts';
import { withTmpDir } from '../support/tmp.ts';
import { pattern } from './model.ts';

const NAMES = new Map<number, string>([
  [FALLOCATE.allocate, 'allocate'],
  [FALLOCATE.zeroRange, 'zero range'],
  [FALLOCATE.punchHole | FALLOCATE.keepSize, 'punch hole'],
]);

/** System calls of which fallocate fails as told; `asked` takes the names of what was tried. */
function fakeCalls(errors: Record<string, string>, asked: string[]): SystemCalls {
  const absent = () => {
    throw new SystemCallError('absent', 'ENOSYS');
  };
  return {
    seek: absent,
    seekEnd: absent,
    copyFileRange: async () => absent(),
    ioctl: async () => absent(),
    misalignment: () => 0,
    async fallocate(_fd, mode) {
      const name = NAMES.get(mode) ?? `mode ${mode}`;
      asked.push(name);
      if (errors[name]) throw new SystemCallError('fallocate', errors[name]);
    },
  };
}

/** Zeros a part of a small file twice with such calls; what was asked for, and whether the bytes became zeros. */
async function zeroWith(errors: Record<string, string>, unmap: boolean): Promise<{ asked: string[]; zeros: boolean }> {
  const asked: string[] = [];
  let zeros = false;
  await withTmpDir(async (directory) => {
    const storage = await openFile(join(directory, 'x'), { create: true });
    await storage.write(0, pattern(200_000, 1));
    overrideSystemCalls(fakeCalls(errors, asked));
    try {
      await storage.zero(10, 100_000, { unmap });
      await storage.zero(10, 100_000, { unmap });
      const bytes = Buffer.alloc(200_000);
      await storage.read(0, bytes);
      zeros = bytes.subarray(10, 100_010).every((byte) => byte === 0);
      const rest = pattern(200_000, 1);
      if (bytes[9] !== rest[9] || !bytes.subarray(100_010).equals(rest.subarray(100_010))) throw new Error('too much');
    } finally {
      overrideSystemCalls(undefined);
      await storage.close();
    }
  });
  return { asked, zeros };
}

test.serial('zeros that may be unmapped are punched out', async (t) => {
  t.deepEqual((await zeroWith({}, true)).asked, ['punch hole', 'punch hole']);
});

test.serial('zeros that may not be unmapped stay allocated', async (t) => {
  t.deepEqual((await zeroWith({}, false)).asked, ['zero range', 'zero range']);
});

test.serial('without zero ranges a hole is punched and filled again', async (t) => {
  const { asked } = await zeroWith({ 'zero range': 'EOPNOTSUPP' }, false);
  // What the file system does not know is asked for once.
  t.deepEqual(asked, ['zero range', 'punch hole', 'allocate', 'punch hole', 'allocate']);
});

test.serial('where nothing else works zeros are written', async (t) => {
  const errors = { 'zero range': 'EOPNOTSUPP', 'punch hole': 'ENOSYS', allocate: 'EOPNOTSUPP' };
  t.deepEqual(await zeroWith(errors, true), { asked: ['punch hole', 'zero range'], zeros: true });
});

test.serial('an unsuitable alignment does not stop later attempts', async (t) => {
  const { asked, zeros } = await zeroWith({ 'zero range': 'EINVAL', 'punch hole': 'EOPNOTSUPP' }, false);
  t.deepEqual(asked, ['zero range', 'punch hole', 'zero range']);
  t.true(zeros);
});

test.serial('a full disk is an error and no reason to try another way', async (t) => {
  await t.throwsAsync(zeroWith({ 'zero range': 'ENOSPC' }, false), {
    message: 'No space left on device',
    code: 'ENOSPC',
  });
});
