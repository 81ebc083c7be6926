import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import type { Extent } from '../../lib/core/extent.ts';
import { openRaw } from '../../lib/sources/raw.ts';
import type { Source } from '../../lib/sources/source.ts';
import { openFile } from '../../lib/storage/file.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { pattern } from '../storage/model.ts';
import { lacksSystemCalls } from '../storage/skip.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';

async function wholeMap(source: Source): Promise<Extent[]> {
  const all: Extent[] = [];
  for (let at = 0; at < source.size; at = all[all.length - 1].offset + all[all.length - 1].length) {
    all.push(...(await source.map(at, source.size - at)));
  }
  return all;
}

/** As `qemu-img map --output=json` says it. */
const entryOf = ({ offset, length, kind, depth, hostOffset }: Extent) => ({
  start: offset,
  length,
  depth,
  present: true,
  zero: kind === 'zero',
  data: kind === 'data',
  offset: hostOffset,
});

test('the last sector of a ragged file is filled up with zeros', async (t) => {
  const source = await openRaw({ storage: memoryStorage('m', pattern(1000, 1)), options: {} });
  t.is(source.size, 1024);
  const bytes = Buffer.alloc(1024, 0xff);
  await source.read(0, bytes);
  t.true(bytes.equals(Buffer.concat([pattern(1000, 1), Buffer.alloc(24)])));
  const [first] = await source.map(0, 1024);
  t.like(first, { offset: 0, length: 1000, kind: 'data', hostOffset: 0 });
  t.is(first.host, source.storage);
  t.is(first.layer, source);
});

test('an empty file is an empty disk', async (t) => {
  t.is((await openRaw({ storage: memoryStorage('m'), options: {} })).size, 0);
});

test('offset and size cut the disk out of its file', async (t) => {
  const storage = memoryStorage('m', pattern(70_000, 1));
  const sizes: [Record<string, string>, number][] = [
    [{ size: '512' }, 512],
    [{ offset: '500' }, 70_144],
    [{ offset: '512' }, 69_632],
    [{ offset: '70000' }, 512],
    [{ size: '70144' }, 70_144],
    [{ size: '1k', offset: '1k' }, 1024],
    [{ size: '0' }, 0],
  ];
  for (const [options, size] of sizes) t.is((await openRaw({ storage, options })).size, size);
  const source = await openRaw({ storage, options: { offset: '1k', size: '2k' } });
  const bytes = Buffer.alloc(500);
  await source.read(100, bytes);
  t.true(bytes.equals(pattern(70_000, 1).subarray(1124, 1624)));
  t.like((await source.map(512, 1024))[0], { offset: 512, length: 1024, hostOffset: 1536 });
});

test('an offset or a size that does not fit is refused in qemu-img’s words', async (t) => {
  const storage = memoryStorage('m', pattern(70_000, 1));
  const refusals: [Record<string, string>, string][] = [
    [{ size: '500' }, 'Specified size is not multiple of 512'],
    [
      { offset: '512', size: '70000' },
      'The sum of offset (512) and size (70000) has to be smaller or equal to the  actual size of the containing file (70144)',
    ],
    [{ offset: '80000' }, 'Offset (80000) cannot be greater than size of the containing file (70144)'],
    [{ foo: 'x' }, "Block format 'raw' does not support the option 'foo'"],
  ];
  for (const [options, message] of refusals) {
    await t.throwsAsync(openRaw({ storage, options }), { instanceOf: ImageError, message });
  }
});

test('sizes, maps and messages of the raw driver are qemu-img’s', async (t) => {
  const qemuImg = tool('qemu-img');
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const path = join(directory, 'ragged');
    writeFileSync(path, pattern(70_000, 1));
    for (const options of [
      {},
      { size: '512' },
      { size: '500' },
      { offset: '500' },
      { offset: '70000' },
      { offset: '80000' },
      { offset: '512', size: '70144' },
      { offset: '512', size: '69632' },
      { foo: 'x' },
    ] as Record<string, string>[]) {
      const text = ['driver=raw', `file.filename=${path}`, ...Object.entries(options).map((pair) => pair.join('='))];
      const { status, stderr } = qemuImg.run(['info', '--image-opts', text.join(',')]);
      const storage = await openFile(path);
      t.teardown(() => storage.close());
      const ours = await openRaw({ storage, options }).catch((error: ImageError) => error);
      if (ours instanceof ImageError) t.true(stderr.endsWith(`: ${ours.message}\n`), stderr);
      else {
        t.is(status, 0);
        t.is(
          JSON.parse(qemuImg.expect(['info', '--output=json', '--image-opts', text.join(',')]))['virtual-size'],
          ours.size,
        );
        // qemu-img map fails an assertion of its own where a disk begins inside a sector.
        if (Number(options.offset ?? 0) % 512 !== 0) continue;
        const map = JSON.parse(qemuImg.expect(['map', '--output=json', '--image-opts', text.join(',')]));
        t.deepEqual((await wholeMap(ours)).map(entryOf), map);
      }
    }
  });
});

test('holes, preallocated space and data written by qemu-io are mapped as qemu-img maps them', async (t) => {
  if (await lacksSystemCalls(t)) return;
  const [qemuImg, qemuIo] = [tool('qemu-img'), tool('qemu-io')];
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const path = join(directory, 'disk');
    qemuImg.expect(['create', '-f', 'raw', path, '1G']);
    const writes = [
      'write -P 1 1M 64k',
      'write -P 2 500M 3M',
      'write -z 600M 1M',
      'discard 501M 1M',
      'write -P 3 1023M 1M',
    ];
    qemuIo.expect(['-f', 'raw', '-d', 'unmap', ...writes.flatMap((write) => ['-c', write]), path]);
    const storage = await openFile(path);
    const source = await openRaw({ storage, options: {} });
    t.deepEqual(
      (await wholeMap(source)).map(entryOf),
      JSON.parse(qemuImg.expect(['map', '--output=json', '-f', 'raw', path])),
    );
    const bytes = Buffer.alloc(4096);
    await source.read(500 << 20, bytes);
    t.true(bytes.every((byte) => byte === 2));
    await source.read(1023 << 20, bytes);
    t.true(bytes.every((byte) => byte === 3));
    await source.read(600 << 20, bytes);
    t.true(bytes.every((byte) => byte === 0));
    await storage.close();
  });
});
