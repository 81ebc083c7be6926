import test from 'ava';
import {
  checkVdiTables,
  decodeVdiHeader,
  encodeVdiHeader,
  hasVdiSignature,
  isAllocated,
  newVdiHeader,
  VDI_BLOCK,
  VdiType,
} from '../../lib/layouts/vdi.ts';

const UUIDS = { image: Buffer.alloc(16, 1), snapshot: Buffer.alloc(16, 2) };
const LARGEST = 0x1fffff8000000;

test('a new header is decoded as it was encoded', (t) => {
  for (const type of [VdiType.dynamic, VdiType.static]) {
    for (const size of [0, 1, 512, VDI_BLOCK, VDI_BLOCK + 1, 3 * 2 ** 40, LARGEST]) {
      const header = newVdiHeader(size, type);
      const bytes = encodeVdiHeader(header, UUIDS);
      t.true(hasVdiSignature(bytes));
      t.deepEqual(decodeVdiHeader(bytes), header);
      t.notThrows(() => checkVdiTables(header, header.dataOffset));
    }
  }
  t.throws(() => newVdiHeader(LARGEST + 1, VdiType.dynamic), { name: 'ImageError', message: /^Unsupported VDI image/ });
});

test('block map and blocks lie behind each other, and behind the header', (t) => {
  const header = newVdiHeader(1000 * VDI_BLOCK, VdiType.dynamic);
  t.is(header.mapOffset, 512);
  t.is(header.dataOffset, 512 + 4096);
  const wrong: [Partial<typeof header>, number, RegExp][] = [
    [{ mapOffset: 0 }, 10_000, /in the header/],
    [{ mapOffset: 8192 }, 10_000, /past the end/],
    [{}, 512 + 3999, /past the end/],
    [{ dataOffset: 4096 }, 10_000, /in the block map/],
    [{ dataOffset: 0 }, 10_000, /in the block map/],
  ];
  for (const [fields, size, message] of wrong) {
    t.throws(() => checkVdiTables({ ...header, ...fields }, size), { name: 'ImageError', message });
  }
  t.notThrows(() => checkVdiTables(header, 512 + 4000));
});

test('two numbers name no block', (t) => {
  t.deepEqual([0, 0xffff_fffd, 0xffff_fffe, 0xffff_ffff].map(isAllocated), [true, true, false, false]);
});
