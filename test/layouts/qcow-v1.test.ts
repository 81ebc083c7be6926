import test from 'ava';
import {
  checkL1,
  decodeBackingName,
  decodeCompressed,
  decodeOffset,
  decodeQcowHeader,
  encodeCompressed,
  encodeQcowHead,
  isCompressed,
  isQcow,
  l1End,
  maxCompressedOffset,
  newQcowHeader,
  qcowGeometry,
} from '../../lib/layouts/qcow.ts';

test('a new header is decoded as it was encoded, with the name behind it', (t) => {
  for (const name of [null, 'base', 'bäse'.repeat(100)]) {
    for (const size of [1, 512, 513, 2 ** 32, 3 * 2 ** 40]) {
      const header = newQcowHeader(size, name);
      const head = encodeQcowHead(header, name);
      t.true(isQcow(head));
      t.deepEqual(decodeQcowHeader(head), header);
      const stored = head.subarray(header.backingOffset, header.backingOffset + header.backingLength);
      t.is(decodeBackingName(name === null ? Buffer.alloc(0) : stored), name);
      t.true(head.length <= header.l1Offset);
      t.is(qcowGeometry(header).size % 512, 0);
    }
  }
});

test('disks without bytes, too long names and too large disks are refused', (t) => {
  t.throws(() => newQcowHeader(0, null), { message: 'Image size is too small, cannot be zero length' });
  t.notThrows(() => newQcowHeader(1, 'x'.repeat(1023)));
  t.throws(() => newQcowHeader(1, 'x'.repeat(1024)), { message: 'Backing file name too long' });
  // 2^28 entries of L1 table, each for 2 MiB.
  t.notThrows(() => newQcowHeader(2 ** 49 - 2 ** 21, null));
  t.throws(() => newQcowHeader(2 ** 49, null), { message: 'Image too large' });
});

test('the L1 table lies behind the header, whole', (t) => {
  const header = newQcowHeader(2 ** 30, null);
  const geometry = qcowGeometry(header);
  t.is(geometry.l1Entries, 512);
  t.is(l1End(header, geometry), 48 + 4096);
  t.notThrows(() => checkL1(header, geometry, 48 + 4096));
  t.throws(() => checkL1(header, geometry, 48 + 4095), { message: /past the end/ });
  t.throws(() => checkL1({ ...header, l1Offset: 40 }, geometry, 2 ** 20), { message: /in the header/ });
});

test('a compressed entry keeps offset and length to the byte, for every cluster size', (t) => {
  const table = Buffer.alloc(8);
  for (let clusterBits = 9; clusterBits <= 16; clusterBits += 1) {
    const far = maxCompressedOffset(clusterBits) - 1;
    for (const host of [0, 1, 0xffff_ffff, 0x1_0000_0000, far]) {
      for (const packedLength of [1, 2 ** (clusterBits - 1), 2 ** clusterBits - 1]) {
        encodeCompressed(table, 0, { host, packedLength, clusterBits });
        t.true(isCompressed(table, 0));
        t.deepEqual(decodeCompressed(table, 0, clusterBits), { host, packedLength });
      }
    }
  }
});

test('the entry of a compressed cluster is the one that QEMU writes', (t) => {
  // 24 bytes at 0x2000, clusters of 4 KiB: seen in an image of qemu-img 7.2.
  const table = Buffer.from('80c0000000002000', 'hex');
  t.deepEqual(decodeCompressed(table, 0, 12), { host: 0x2000, packedLength: 24 });
});

test('offsets that no file can have are corrupt', (t) => {
  t.is(decodeOffset(Buffer.from('001fffffffffffff', 'hex'), 0, 'Cluster'), Number.MAX_SAFE_INTEGER);
  t.throws(() => decodeOffset(Buffer.from('0020000000000000', 'hex'), 0, 'Cluster'), {
    name: 'ImageError',
    message: /larger than any file/,
  });
  // 54 bits of offset, of which the upper are set.
  t.throws(() => decodeCompressed(Buffer.from('ffffffffffffffff', 'hex'), 0, 9), { name: 'ImageError' });
});

test('a name ends at its first zero byte', (t) => {
  t.is(decodeBackingName(Buffer.from('base\0rest')), 'base');
  t.is(decodeBackingName(Buffer.from('\0\0')), null);
  t.is(decodeBackingName(Buffer.alloc(0)), null);
});
