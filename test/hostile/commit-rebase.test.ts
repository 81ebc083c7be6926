import test from 'ava';
import { commit, createImage, ImageError, rebase } from '../../lib/index.ts';
import type { NodeSpec } from '../../lib/sources/filename.ts';
import { registerProtocol } from '../../lib/storage/index.ts';
import { type MemoryStorage, memoryStorage } from '../../lib/storage/memory.ts';
import { pattern, Random } from '../support/model.ts';

const SIZE = 200 * 1024;
const ROUNDS = 250;
/** A spoiled size may make a base grow to anything; so much of it is kept in memory at the most. */
const MAX_BYTES = 64 * 1024 * 1024;

const files = new Map<string, Buffer>();

registerProtocol({
  name: 'spoiled',
  creates: false,
  async open({ filename = '' }) {
    const storage: MemoryStorage = memoryStorage(filename, Buffer.from(files.get(filename) ?? []));
    const truncate = storage.truncate.bind(storage);
    storage.truncate = async (size) => {
      if (size > MAX_BYTES) throw new ImageError('no-space', 'File too large', { code: 'EFBIG' });
      await truncate(size);
    };
    return storage;
  },
});

function node(driver: string, filename: string, backing: NodeSpec | null): NodeSpec {
  return { driver, file: { driver: 'spoiled', filename }, options: {}, backing, filename };
}

const OVERLAYS: Readonly<Record<string, Readonly<Record<string, string>>>> = {
  qcow2: { cluster_size: '4096' },
  qed: { cluster_size: '4096', table_size: '1' },
  qcow: {},
};

async function make(format: string, options: Readonly<Record<string, string>>, backed: boolean): Promise<Buffer> {
  const storage = memoryStorage(format);
  const backing = { filename: 'base', format: 'raw', unsafe: true };
  const target = await createImage({
    ...{ filename: format, format, size: SIZE, options, storage },
    ...(backed ? { backing } : {}),
  });
  for (const offset of [0, 40_960, 120_000]) await target.write(alignedTo(offset), pattern(16_384, offset + 1));
  await target.close();
  return storage.bytes();
}

function alignedTo(offset: number): number {
  return Math.floor(offset / 4096) * 4096;
}

/** A few bytes of the file's metadata, and of what looks like tables, become others. */
function spoil(bytes: Buffer, random: Random): Buffer {
  const spoiled = Buffer.from(bytes);
  for (let count = 1 + random.below(3); count > 0; count -= 1) {
    const head = random.below(2) === 0;
    const at = head ? random.below(112) : random.below(Math.floor(bytes.length / 8)) * 8 + random.below(8);
    spoiled[at] = random.pick([0, 1, 0x40, 0x80, 0xff, random.below(256)]);
  }
  return random.below(20) === 0 ? spoiled.subarray(0, random.below(spoiled.length)) : spoiled;
}

for (const [format, options] of Object.entries(OVERLAYS)) {
  test.serial(`spoiled ${format} images are committed and rebased, or refused`, async (t) => {
    const random = new Random(SIZE + format.length);
    const overlay = await make(format, options, true);
    const base = await make('qcow2', OVERLAYS.qcow2, false);
    const done = { commit: 0, rebase: 0 };
    for (let round = 0; round < ROUNDS; round += 1) {
      const overlaySpoiled = random.below(3) > 0;
      files.set('overlay', overlaySpoiled ? spoil(overlay, random) : overlay);
      files.set('base', overlaySpoiled ? base : spoil(base, random));
      const image = node(format, 'overlay', node('qcow2', 'base', null));
      const runs = {
        commit: () => commit({ image }),
        rebase: () => rebase({ image, backing: null }),
      };
      for (const [verb, run] of Object.entries(runs) as ['commit' | 'rebase', () => Promise<unknown>][]) {
        const error = await run().then(
          () => null,
          (reason) => reason,
        );
        if (error === null) done[verb] += 1;
        else t.true(error instanceof ImageError, `${verb}, round ${round}: ${(error as Error)?.stack}`);
      }
    }
    t.log(done);
    t.true(done.commit > 0 && done.commit < ROUNDS);
    t.true(format === 'qcow' || (done.rebase > 0 && done.rebase < ROUNDS));
  });
}
