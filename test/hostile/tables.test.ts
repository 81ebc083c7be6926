import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import type { ImageError } from '../../lib/core/errors.ts';
import { drivers } from '../../lib/formats/index.ts';
import { openTarget } from '../../lib/formats/open-target.ts';
import { openImage } from '../../lib/sources/open.ts';
import { galleryTools, qcow2Gallery } from '../support/images.ts';
import { readField } from '../support/mutate.ts';
import { withTmpDir } from '../support/tmp.ts';
import { qcow2Anatomy } from './anatomies/qcow2.ts';
import { l2Fields, openBytes, withFields } from './craft.ts';

/** Calls `use` with the bytes of an image of the gallery and a directory. */
async function withImage(
  t: ExecutionContext,
  name: string,
  use: (bytes: Buffer, directory: string) => Promise<void>,
): Promise<void> {
  if (galleryTools().some((each) => each.missing(t))) return;
  await withTmpDir((directory) => use(qcow2Gallery(directory, [name])[0].bytes, directory));
}

async function assertRefused(t: ExecutionContext, action: Promise<unknown>, what: string): Promise<void> {
  const error = await t.throwsAsync<ImageError>(action as Promise<never>, { name: 'ImageError' }, what);
  if (error === undefined) return;
  t.is(error.format, 'qcow2', what);
  t.truthy(error.file, what);
}

test('cluster sizes outside of 512 bytes to 2 MiB are refused', async (t) => {
  await withImage(t, 'plain', async (bytes, directory) => {
    for (const bits of [0, 1, 8, 22, 31, 32, 63, 64, 0xffff_ffff]) {
      await assertRefused(t, openBytes(directory, withFields(bytes, { cluster_bits: bits })), `2^${bits}`);
    }
  });
});

test('an L1 table larger than QEMU accepts is refused, however large the file is', async (t) => {
  await withImage(t, 'plain', async (bytes, directory) => {
    const giant = withFields(bytes, { l1_size: 4 * 1024 * 1024 + 1, l1_table_offset: 1024 * 1024 });
    const path = join(directory, 'giant.qcow2');
    writeFileSync(path, giant);
    truncateSync(path, 2 ** 40);
    await assertRefused(t, openImage(path, { drivers: drivers(), format: 'qcow2' }), 'l1_size');
  });
});

test('tables and data past the end of the file are refused with their offset', async (t) => {
  await withImage(t, 'plain', async (bytes, directory) => {
    const far = BigInt(bytes.length + 4096 * 1000);
    const [entry] = l2Fields(bytes);
    for (const name of ['L1[0]', entry]) {
      const image = await openBytes(directory, withFields(bytes, { [name]: far | (1n << 63n) }));
      const error = await t.throwsAsync<ImageError>(image.source.read(0, Buffer.alloc(4096)), { name: 'ImageError' });
      t.is(typeof error?.offset, 'number', name);
      t.is(error?.format, 'qcow2', name);
      await image.close();
    }
  });
});

test('an L1 entry that points at the L1 table itself is no endless loop', async (t) => {
  await withImage(t, 'plain', async (bytes, directory) => {
    const l1 = readField(bytes, { name: 'l1_table_offset', offset: 40, width: 8 });
    const image = await openBytes(directory, withFields(bytes, { 'L1[0]': l1 | (1n << 63n) }));
    for (let at = 0; at < image.source.size; ) {
      const answer = await image.source.map(at, image.source.size - at).catch(() => null);
      if (answer === null) break;
      at += answer.reduce((sum, each) => sum + each.length, 0);
    }
    await image.close();
    t.pass();
  });
});

test('writing through an entry that points at metadata leaves the metadata as they were', async (t) => {
  await withImage(t, 'plain', async (bytes, directory) => {
    const { places, unit: clusterSize } = qcow2Anatomy(bytes);
    const [entry] = l2Fields(bytes);
    const metadata = places.filter((place) => place !== 0n && Number(place) < bytes.length);
    for (const place of metadata) {
      const path = join(directory, 'overlap.qcow2');
      const spoiled = withFields(bytes, { [entry]: place | (1n << 63n) });
      writeFileSync(path, spoiled);
      const target = await openTarget(path, { format: 'qcow2' }).catch(() => null);
      if (target === null) continue;
      await target.write(100, Buffer.alloc(2000, 0x5a)).catch(() => {});
      await target.close().catch(() => target.abort());
      const at = Number(place);
      const found = readFileSync(path).subarray(at, at + clusterSize);
      t.false(found.includes(Buffer.alloc(2000, 0x5a)), `cluster at ${place}`);
    }
    t.true(metadata.length >= 4);
  });
});

test('an unknown incompatible feature is refused by the name that the file gives it', async (t) => {
  await withImage(t, 'plain', async (bytes, directory) => {
    const spoiled = withFields(bytes, { incompatible_features: (1n << 4n) | (1n << 40n) });
    await assertRefused(t, openBytes(directory, spoiled), 'bit 40');
  });
});

test('a snapshot table that promises more than the file holds is refused', async (t) => {
  await withImage(t, 'snapshots', async (bytes, directory) => {
    const lies: Record<string, bigint | number>[] = [
      { nb_snapshots: 65_536 },
      { nb_snapshots: 65_537 },
      { nb_snapshots: 0xffff_ffff },
      { snapshots_offset: BigInt(bytes.length) },
      { 'snapshot 1 name length': 0xffff },
      { 'snapshot 0 extra length': 0xffff_fff0 },
    ];
    for (const values of lies) {
      await assertRefused(t, openBytes(directory, withFields(bytes, values)), Object.keys(values)[0]);
    }
  });
});

test('a snapshot whose L1 table lies is refused, and the disk itself stays readable', async (t) => {
  await withImage(t, 'snapshots', async (bytes, directory) => {
    const lies: Record<string, bigint | number>[] = [
      { 'snapshot 0 L1 offset': BigInt(bytes.length + 4096) },
      { 'snapshot 0 L1 offset': 77n },
      { 'snapshot 0 L1 size': 0x40_0000 },
    ];
    for (const values of lies) {
      const what = Object.keys(values)[0];
      const image = await openBytes(directory, withFields(bytes, values)).catch(() => null);
      if (image === null) continue;
      await t.notThrowsAsync(image.source.read(0, Buffer.alloc(5000)), what);
      await assertRefused(
        t,
        (async () => {
          const snapshot = await image.source.openSnapshot?.({ idOrName: 'first' });
          await snapshot?.read(0, Buffer.alloc(256 * 1024));
        })(),
        what,
      );
      await image.close();
    }
    t.pass();
  });
});
