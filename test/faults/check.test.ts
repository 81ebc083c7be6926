import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import type { CheckReport } from '../../lib/formats/driver.ts';
import { type FaultyOperation, faultyStorage, type StorageEvent } from '../../lib/storage/faulty.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import type { Storage } from '../../lib/storage/storage.ts';
import { Random } from '../support/model.ts';
import { openRequest } from '../support/requests.ts';
import { afterCrash, type Loss } from './power.ts';
import { completeImage, type Recipe, readDisk, recipes } from './subjects.ts';

/** Makes an image wrong in every way that a repair mends, without harm to the disk. */
const SPOILS: Readonly<Record<string, (bytes: Buffer) => Buffer>> = {
  qed(bytes) {
    const l2 = Number(bytes.readBigUInt64LE(4096));
    const free = [0, 1, 2].map((nth) => freeEntry(bytes, l2, 8, nth));
    bytes.writeBigUInt64LE(0x123n, free[0]);
    bytes.writeBigUInt64LE(0x777_7000n, free[1]);
    bytes.writeBigUInt64LE(0x1000n * 0x7777n, 4096 + 8);
    bytes.writeBigUInt64LE(bytes.readBigUInt64LE(16) | 2n, 16);
    bytes.writeBigUInt64LE(1n, 32);
    // The last cluster ends in zeros or not: half of it is what the file still has.
    return bytes.subarray(-2048).every((byte) => byte === 0) ? bytes.subarray(0, bytes.length - 2048) : bytes;
  },
  parallels(bytes) {
    for (const nth of [0, 3]) bytes.writeUInt32LE(0x7777, freeEntry(bytes, 64, 4, nth));
    bytes.writeUInt32LE(0x746f_6e59, 44);
    return Buffer.concat([bytes, Buffer.alloc(10_000, 1)]);
  },
};

/** Offset of the nth entry that is 0. */
function freeEntry(bytes: Buffer, table: number, width: 4 | 8, nth: number): number {
  let left = nth;
  for (let at = table; ; at += width) {
    if (bytes.subarray(at, at + width).some((byte) => byte !== 0)) continue;
    if (left === 0) return at;
    left -= 1;
  }
}

async function repair(storage: Storage, { driver }: Recipe): Promise<CheckReport> {
  if (driver.check === undefined) throw new Error(`${driver.name} has no check`);
  const report = () => {};
  return driver.check({ ...openRequest(storage, true), repair: 'all', report });
}

/** What a disk without power may have kept of what no flush had made sure of: each moment is looked at so often. */
const LOSSES: readonly Loss[] = ['none', 'whole', 'whole', 'whole', 'torn', 'torn', 'torn', 'torn'];

for (const recipe of recipes().filter(({ driver }) => driver.name in SPOILS)) {
  const spoiled = async () => {
    const { bytes } = await completeImage(recipe);
    const disk = await readDisk(bytes, recipe);
    return { start: SPOILS[recipe.driver.name](Buffer.from(bytes)), disk };
  };

  test(`${recipe.title}: whenever the power goes in a repair, the next one comes to the same end`, async (t) => {
    const { start, disk } = await spoiled();
    const record: StorageEvent[] = [];
    const whole = memoryStorage('whole', start);
    const { corruptions, corruptionsFixed } = await repair(faultyStorage(whole, { record }), recipe);
    t.deepEqual([corruptions, corruptionsFixed >= 3], [0, true]);
    t.true((await readDisk(whole.bytes(), recipe)).equals(disk));
    const random = new Random(record.length);
    for (let count = 0; count <= record.length; count += 1) {
      for (const loss of LOSSES) {
        const crashed = memoryStorage('crashed', await afterCrash(start, record.slice(0, count), { loss, random }));
        await repair(crashed, recipe);
        t.true(crashed.bytes().equals(whole.bytes()), `after ${count} of ${record.length} operations`);
      }
    }
  });

  test(`${recipe.title}: a repair that fails at any write gives an error, and can be done again`, async (t) => {
    const { start } = await spoiled();
    const whole = memoryStorage('whole', start);
    const record: StorageEvent[] = [];
    await repair(faultyStorage(whole, { record }), recipe);
    for (const operation of ['write', 'flush', 'truncate'] satisfies FaultyOperation[]) {
      const times = record.filter((event) => event.operation === operation).length;
      for (let nth = 1; nth <= times; nth += 1) {
        const storage = memoryStorage('failing', start);
        const faults = [{ operation, nth, code: 'EIO' }];
        const error = await t.throwsAsync(repair(faultyStorage(storage, { faults }), recipe), {
          instanceOf: ImageError,
        });
        t.is(error?.code, 'EIO');
        await repair(storage, recipe);
        t.true(storage.bytes().equals(whole.bytes()), `${operation} ${nth}`);
      }
    }
  });
}
