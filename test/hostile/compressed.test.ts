import { join } from 'node:path';
import { deflateRawSync } from 'node:zlib';
import { compress } from '@mongodb-js/zstd';
import test from 'ava';
import { galleryTools, mixedDisk, qcow2Gallery } from '../support/images.ts';
import { withTmpDir } from '../support/tmp.ts';
import { qcow2Anatomy } from './anatomies/qcow2.ts';
import { openBytes } from './craft.ts';

const CLUSTER = 8192;
const BOMB_BYTES = 256 * 1024 * 1024;
/** Decompressing one bomb whole takes more than this. */
const MEMORY_BOUND = 128 * 1024 * 1024;
const COMPRESSED = 1n << 62n;

/** Puts `packed` behind the file's end and lets the first compressed cluster's entry point at it. */
function plant(bytes: Buffer, packed: Buffer): Buffer {
  const table = qcow2Anatomy(bytes).regions.find(({ name }) => name.startsWith('L2 of L1'));
  if (table === undefined) throw new Error('no L2 table');
  let at = table.offset;
  while ((bytes.readBigUInt64BE(at) & COMPRESSED) === 0n) at += 8;
  const offset = Math.ceil(bytes.length / 512) * 512;
  const planted = Buffer.concat([bytes, Buffer.alloc(offset - bytes.length), packed, Buffer.alloc(4 * CLUSTER)]);
  const sectors = BigInt(Math.min(31, Math.ceil(packed.length / 512) - 1));
  // With 8 KiB clusters the sector count stands from bit 57 on (62 - (13 - 8)).
  planted.writeBigUInt64BE(COMPRESSED | (sectors << 57n) | BigInt(offset), at);
  return planted;
}

/** Guest offset of the entry that `plant` changes. */
function plantedCluster(bytes: Buffer): number {
  const table = qcow2Anatomy(bytes).regions.find(({ name }) => name.startsWith('L2 of L1'));
  let index = 0;
  while ((bytes.readBigUInt64BE((table?.offset ?? 0) + index * 8) & COMPRESSED) === 0n) index += 1;
  return index * CLUSTER;
}

const bombs: Record<string, () => Promise<Buffer>> = {
  zlib: async () => deflateRawSync(Buffer.alloc(BOMB_BYTES), { windowBits: 12, level: 9 }),
  zstd: async () => compress(Buffer.alloc(BOMB_BYTES)),
};

for (const [name, make] of Object.entries(bombs)) {
  test.serial(`a ${name} cluster that unpacks to 256 MiB costs no such memory`, async (t) => {
    if (galleryTools().some((each) => each.missing(t))) return;
    const bomb = await make();
    await withTmpDir(async (directory) => {
      const [{ bytes }] = qcow2Gallery(directory, [name]);
      const image = await openBytes(directory, plant(bytes, bomb));
      const found = Buffer.alloc(CLUSTER, 1);
      const before = process.memoryUsage.rss();
      let peak = before;
      for (let round = 0; round < 8; round += 1) {
        // QEMU takes what fills the cluster; to refuse the stream is right as well.
        const error = await image.source.read(plantedCluster(bytes), found).then(
          () => null,
          (reason) => reason,
        );
        if (error === null) t.true(found.equals(Buffer.alloc(CLUSTER)));
        else t.is(error.name, 'ImageError');
        peak = Math.max(peak, process.memoryUsage.rss());
      }
      await image.close();
      t.true(peak - before < MEMORY_BOUND, `${peak - before} bytes more`);
    });
  });

  test(`a ${name} cluster that unpacks to less than a cluster, or is no such stream, is refused`, async (t) => {
    if (galleryTools().some((each) => each.missing(t))) return;
    const short = name === 'zlib' ? deflateRawSync(Buffer.alloc(100, 1)) : await compress(Buffer.alloc(100, 1));
    await withTmpDir(async (directory) => {
      const [{ bytes }] = qcow2Gallery(directory, [name]);
      for (const packed of [short, Buffer.alloc(700, 0xff), Buffer.alloc(700), short.subarray(0, 5)]) {
        const image = await openBytes(directory, plant(bytes, packed));
        const reading = image.source.read(plantedCluster(bytes), Buffer.alloc(CLUSTER));
        const error = await t.throwsAsync(reading, { name: 'ImageError' });
        t.like(error, { format: 'qcow2' });
        await image.close();
      }
    });
  });
}

test('compressed clusters that begin or end past the end of the file are refused', async (t) => {
  if (galleryTools().some((each) => each.missing(t))) return;
  await withTmpDir(async (directory) => {
    const [{ bytes }] = qcow2Gallery(directory, ['zlib']);
    const planted = plant(bytes, deflateRawSync(mixedDisk(CLUSTER), { windowBits: 12 }));
    for (const length of [bytes.length, bytes.length - 512]) {
      const image = await openBytes(directory, planted.subarray(0, length));
      const reading = image.source.read(plantedCluster(bytes), Buffer.alloc(CLUSTER));
      const error = await t.throwsAsync(reading, { name: 'ImageError' });
      t.like(error, { format: 'qcow2', file: join(directory, 'hostile.qcow2') });
      await image.close();
    }
  });
});
