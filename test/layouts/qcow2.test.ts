import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import fc from 'fast-check';
import * as layout from '../../lib/layouts/qcow2/index.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';

const qemuImg = tool('qemu-img');
const clusterBits = fc.integer({ min: layout.MIN_CLUSTER_BITS, max: layout.MAX_CLUSTER_BITS });
const offsets = fc.integer({ min: 0, max: 2 ** 40 }).map((sector) => sector * 512);

function holds<T>(arbitrary: fc.Arbitrary<T>, check: (value: T) => void): void {
  fc.assert(
    fc.property(arbitrary, (value) => check(value)),
    { numRuns: 300 },
  );
}

const HEADERS: readonly (readonly string[])[] = [
  [],
  ['-o', 'compat=0.10'],
  ['-o', 'extended_l2=on,compression_type=zstd,refcount_bits=64,lazy_refcounts=on'],
  ['-u', '-b', 'some, base.img', '-F', 'raw'],
  ['-o', 'data_file=data.raw,data_file_raw=on'],
];

for (const options of HEADERS) {
  test(`the head that qemu-img create ${options.join(' ')} writes is decoded and encoded to the same bytes`, async (t) => {
    if (qemuImg.missing(t)) return;
    await withTmpDir((directory) => {
      qemuImg.expect(['create', '-q', '-f', 'qcow2', ...options, 'x.qcow2', '10M'], { cwd: directory });
      const bytes = readFileSync(join(directory, 'x.qcow2'));
      const header = layout.decodeHeader(bytes);
      layout.checkTables(header);
      const tail = layout.decodeTail(bytes, header);
      const { backingOffset, backingLength } = header;
      const encoded = layout.encodeHead(header, tail);
      t.truthy(encoded);
      t.deepEqual(encoded, bytes.subarray(0, encoded?.length));
      t.deepEqual([header.backingOffset, header.backingLength], [backingOffset, backingLength]);
    });
  });
}

test('the feature name table is the one that qemu-img writes', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir((directory) => {
    qemuImg.expect(['create', '-q', '-f', 'qcow2', 'x.qcow2', '1M'], { cwd: directory });
    const bytes = readFileSync(join(directory, 'x.qcow2'));
    const { extensions } = layout.decodeTail(bytes, layout.decodeHeader(bytes));
    const table = layout.findExtension(extensions, layout.ExtensionType.featureNames);
    t.deepEqual(table, layout.encodeFeatureNames(layout.FEATURE_NAMES));
    t.deepEqual(layout.decodeFeatureNames(table as Buffer), [...layout.FEATURE_NAMES]);
  });
});

test('header fields that can not be are refused in the words of qemu-img', async (t) => {
  if (qemuImg.missing(t)) return;
  const lies: [at: number, bytes: 1 | 4 | 8, value: number][] = [
    [4, 4, 4],
    [20, 4, 8],
    [20, 4, 22],
    [96, 4, 7],
    [100, 4, 100],
    [100, 4, 70000],
    [104, 1, 1],
    [104, 1, 9],
    [72, 8, 8],
    [32, 4, 3],
    [56, 4, 0],
    [56, 4, 129],
    [48, 8, 513],
    [60, 4, 70000],
    [36, 4, 2 ** 30],
    [24, 8, 2 ** 40],
    [40, 8, 513],
    [8, 8, 70000],
    [116, 4, 70000],
  ];
  await withTmpDir((directory) => {
    const file = join(directory, 'x.qcow2');
    qemuImg.expect(['create', '-q', '-f', 'qcow2', file, '10M']);
    const good = readFileSync(file);
    for (const [at, width, value] of lies) {
      const bad = Buffer.from(good);
      if (width === 8) bad.writeBigUInt64BE(BigInt(value), at);
      else bad.writeUIntBE(value, at, width);
      writeFileSync(file, bad);
      const { stderr } = qemuImg.run(['info', '-f', 'qcow2', file]);
      const said = stderr.replace(`qemu-img: Could not open '${file}': `, '').trim();
      t.is(messageOf(bad), said, `offset ${at}, value ${value}`);
    }
  });
});

function messageOf(bytes: Buffer): string {
  try {
    const header = layout.decodeHeader(bytes);
    layout.decodeTail(bytes, header);
    layout.checkTables(header);
    return '';
  } catch (error) {
    return (error as Error).message;
  }
}

test('compressed descriptors keep offset and sectors for every cluster size', (t) => {
  const cases = clusterBits.chain((bits) =>
    fc.record({
      bits: fc.constant(bits),
      offset: fc.integer({ min: 1, max: Math.min(2 ** 46, layout.maxCompressedOffset(bits) - 2 ** 22) }),
      packedLength: fc.integer({ min: 1, max: 2 ** bits - 1 }),
    }),
  );
  holds(cases, ({ bits, offset, packedLength }) => {
    const table = Buffer.alloc(8);
    layout.encodeCompressed(table, 0, { offset, packedLength, clusterBits: bits });
    const high = table.readUInt32BE(0);
    const found = layout.decodeCompressed(high, table.readUInt32BE(4), bits);
    t.true(layout.isCompressed(high) && !layout.isCopied(high));
    t.is(found.offset, offset);
    t.true(found.length >= packedLength && found.length < packedLength + layout.COMPRESSED_SECTOR);
  });
});

test('standard entries keep offset and flags', (t) => {
  holds(fc.record({ offset: offsets, copied: fc.boolean(), zero: fc.boolean() }), ({ offset, copied, zero }) => {
    const table = Buffer.alloc(8);
    layout.encodeEntry(table, 0, offset, { copied, zero });
    const [high, low] = [table.readUInt32BE(0), table.readUInt32BE(4)];
    t.is(layout.entryOffset(high, low), offset);
    t.is(layout.isCopied(high), copied);
    t.is((low & layout.ZERO_LOW) === 1, zero);
    t.false(layout.isCompressed(high));
    t.false(layout.l2Reserved(high, low));
  });
});

test('an L1 entry with reserved bits or an unaligned table is corrupt', (t) => {
  for (const entry of [0x0100_0000_0001_0000n, 0x1_0001n, 0x1_0200n]) {
    const table = Buffer.alloc(8);
    table.writeBigUInt64BE(entry);
    t.throws(() => layout.decodeL1Entry(table, 0, 65536), { name: 'ImageError' });
  }
});

test('subcluster masks cover what they name', (t) => {
  const ranges = fc.tuple(fc.integer({ min: 0, max: 32 }), fc.integer({ min: 0, max: 32 }));
  holds(ranges, ([first, end]) => {
    const mask = layout.subclusterMask(first, end);
    for (let bit = 0; bit < 32; bit += 1) t.is((mask >>> bit) & 1, bit >= first && bit < end ? 1 : 0);
  });
  const table = Buffer.alloc(16);
  layout.encodeSubclusters(table, 0, { allocated: layout.ALL_SUBCLUSTERS, zero: 0 });
  t.deepEqual(layout.decodeSubclusters(table, 0), { allocated: layout.ALL_SUBCLUSTERS, zero: 0 });
});

for (const bits of [1, 2, 4, 8, 16, 32, 64]) {
  test(`refcounts of ${bits} bits keep their values and leave their neighbours alone`, (t) => {
    const entries = fc.array(fc.integer({ min: 0, max: Math.min(layout.maxRefcount(bits), 2 ** 40) }), {
      minLength: 8,
      maxLength: 64,
    });
    holds(entries, (values) => {
      const block = Buffer.alloc(512);
      const order = values.map((_, index) => index).sort((a, b) => values[a] - values[b]);
      for (const index of order) layout.writeRefcount(block, index, bits, values[index]);
      t.deepEqual(
        values.map((_, index) => layout.readRefcount(block, index, bits)),
        values,
      );
    });
  });
}

for (const bits of [1, 2, 4, 8, 16, 32, 64]) {
  test(`stretches of equal refcounts of ${bits} bits are set and measured, and leave their neighbours alone`, (t) => {
    const value = Math.min(layout.maxRefcount(bits), 2 ** 40 + 259);
    const stretch = fc.record({ index: fc.integer({ min: 1, max: 30 }), entries: fc.integer({ min: 1, max: 30 }) });
    holds(stretch, ({ index, entries }) => {
      const block = Buffer.alloc(512);
      layout.fillRefcounts(block, { index, entries, bits, value });
      const expected = Array.from({ length: 64 }, (_, at) => (at >= index && at < index + entries ? value : 0));
      t.deepEqual(
        expected.map((_, at) => layout.readRefcount(block, at, bits)),
        expected,
      );
      t.is(layout.sameRefcounts(block, 0, 64, bits), index);
      t.is(layout.sameRefcounts(block, index, 64 - index, bits), entries);
      t.is(layout.sameRefcounts(block, index, 1, bits), 1);
    });
  });
}

test('snapshot table entries survive a round trip, unknown extra data included', (t) => {
  const entries = fc.record({
    l1Offset: offsets,
    l1Entries: fc.nat(1000),
    id: fc.string({ maxLength: 20 }),
    name: fc.string({ maxLength: 40 }),
    dateSeconds: fc.nat(),
    dateNanoseconds: fc.nat(999_999_999),
    vmClockNanoseconds: fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
    vmStateSize: fc.nat({ max: 2 ** 40 }),
    diskSize: fc.nat({ max: 2 ** 50 }),
    icount: fc.option(fc.bigInt({ min: 0n, max: 2n ** 63n })),
    unknownExtra: fc.uint8Array({ maxLength: 32 }).map((bytes) => Buffer.from(bytes)),
  });
  holds(fc.array(entries, { maxLength: 4 }), (table) => {
    const bytes = Buffer.concat(table.map((entry) => layout.encodeSnapshotEntry(entry, 0)));
    t.deepEqual(layout.decodeSnapshotTable(bytes, table.length), table);
  });
});

test('bitmap directories survive a round trip', (t) => {
  const entries = fc.record({
    tableOffset: offsets,
    tableEntries: fc.nat(1000),
    inUse: fc.boolean(),
    auto: fc.boolean(),
    extraCompatible: fc.boolean(),
    granularityBits: fc.integer({ min: 9, max: 31 }),
    name: fc.string({ minLength: 1, maxLength: 40 }),
    extra: fc.uint8Array({ maxLength: 16 }).map((bytes) => Buffer.from(bytes)),
  });
  holds(fc.array(entries, { maxLength: 4 }), (directory) => {
    const bytes = layout.encodeBitmapDirectory(directory);
    t.deepEqual(layout.decodeBitmapDirectory(bytes, directory.length), directory);
    if (directory.length > 0) t.throws(() => layout.decodeBitmapDirectory(bytes, directory.length - 1));
  });
});

test('whatever bytes a header has, decoding gives a header or an ImageError', (t) => {
  const bytes = fc.uint8Array({ minLength: 0, maxLength: 600 });
  fc.assert(
    fc.property(bytes, fc.constantFrom(2, 3), (noise, version) => {
      const head = Buffer.from(noise);
      if (head.length >= 24) {
        head.writeUInt32BE(layout.QCOW2_MAGIC, 0);
        head.writeUInt32BE(version, 4);
        head.writeUInt32BE(9 + (head[23] % 13), 20);
      }
      try {
        const header = layout.decodeHeader(head);
        layout.checkTables(header);
        layout.decodeTail(head, header);
      } catch (error) {
        if ((error as Error).name !== 'ImageError') throw error;
      }
    }),
    { numRuns: 2000 },
  );
  t.pass();
});
