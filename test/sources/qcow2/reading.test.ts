import { join } from 'node:path';
import test from 'ava';
import { withTmpDir } from '../../support/tmp.ts';
import { loadAll, mapLines, qemuImg, qemuIo, qemuMap, qemuRaw, readAll, withImage } from '../oracle.ts';

const SIZE = 6 * 1024 * 1024 + 3 * 512;

/** One set of `-o` options, and whether data can be compressed with it. */
const VARIANTS: { options: string; packed?: boolean }[] = [
  { options: 'compat=0.10', packed: true },
  { options: 'compat=1.1', packed: true },
  ...[512, 1024, 4096, 8192, 131072, 2097152].map((size) => ({ options: `cluster_size=${size}`, packed: true })),
  ...[1, 2, 4, 8, 32, 64].map((bits) => ({ options: `refcount_bits=${bits}` })),
  { options: 'extended_l2=on', packed: true },
  { options: 'extended_l2=on,cluster_size=16384', packed: true },
  { options: 'extended_l2=on,cluster_size=2097152' },
  { options: 'lazy_refcounts=on' },
  { options: 'compression_type=zstd', packed: true },
  { options: 'compression_type=zstd,cluster_size=2M', packed: true },
  { options: 'compression_type=zstd,extended_l2=on', packed: true },
  { options: 'preallocation=metadata' },
  { options: 'preallocation=falloc' },
  { options: 'data_file={directory}/data' },
  { options: 'data_file={directory}/data,data_file_raw=on' },
  { options: 'data_file={directory}/data,extended_l2=on' },
];

/** Writes that leave all kinds of clusters behind, whole ones and parts. */
function commandsFor(packed: boolean, version2: boolean): string[] {
  const commands = [
    'write -P 1 0 300k',
    'write -P 2 1000k 3k',
    'write -P 3 2049k 512',
    'write -P 4 3M 1M',
    'discard 3200k 256k',
    'write -P 5 3300k 64k',
    `write -P 6 ${SIZE - 512} 512`,
  ];
  if (!version2) commands.push('write -z 100k 64k', 'write -z 3500k 128k', 'write -z 4500k 16k', 'write -z -u 3M 64k');
  if (packed) commands.push('write -c -P 7 4M 2M', 'write -P 8 4200k 10k');
  return commands;
}

for (const { options, packed = false } of VARIANTS) {
  test(`an image with ${options.replaceAll('{directory}/', '')} reads and maps as qemu-img has it`, async (t) => {
    if (qemuImg.missing(t) || qemuIo.missing(t)) return;
    await withTmpDir(async (directory) => {
      const file = join(directory, 'image.qcow2');
      const given = options.replaceAll('{directory}', directory);
      qemuImg.expect(['create', '-q', '-f', 'qcow2', '-o', given, file, String(SIZE)]);
      const commands = commandsFor(packed, options.includes('0.10'));
      qemuIo.expect(['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), file]);
      const expected = qemuRaw(directory, [file]);
      await withImage(file, async ({ source, chain }) => {
        t.is(source, chain);
        t.is(source.size, SIZE);
        t.true((await readAll(source)).equals(expected), 'reads');
        t.true((await loadAll(source)).equals(expected), 'loads by its map');
        t.deepEqual(await mapLines(source), qemuMap([file]));
      });
    });
  });
}

for (const type of ['zlib', 'zstd']) {
  test(`a disk that is all compressed with ${type} reads in whole, in parts and in many small pieces`, async (t) => {
    if (qemuImg.missing(t)) return;
    await withTmpDir(async (directory) => {
      const raw = join(directory, 'raw');
      const file = join(directory, 'image.qcow2');
      qemuImg.expect(['create', '-q', '-f', 'raw', raw, String(SIZE)]);
      qemuIo.expect(['-f', 'raw', '-c', 'write -P 9 1M 2M', '-c', 'write -s /proc/self/exe 3M 3M', raw]);
      qemuImg.expect(['convert', '-c', '-O', 'qcow2', '-o', `compression_type=${type}`, raw, file]);
      const expected = qemuRaw(directory, [raw]);
      await withImage(file, async ({ source }) => {
        t.true((await readAll(source)).equals(expected));
        t.true((await loadAll(source)).equals(expected));
        t.true((await readAll(source, 5000)).equals(expected));
        t.deepEqual(await mapLines(source), qemuMap([file]));
      });
    });
  });
}

test('a disk of 64 TiB with a few clusters maps in few answers', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const file = join(directory, 'image.qcow2');
    qemuImg.expect(['create', '-q', '-f', 'qcow2', '-o', 'cluster_size=2M', file, '64T']);
    qemuIo.expect(['-f', 'qcow2', '-c', 'write -P 1 40T 64k', '-c', 'write -P 2 63T 64k', file]);
    await withImage(file, async ({ source }) => {
      t.deepEqual(await mapLines(source), qemuMap([file]));
      t.true((await source.map(0, source.size)).length <= 5);
    });
  });
});
