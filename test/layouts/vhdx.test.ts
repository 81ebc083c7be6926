import test from 'ava';
import { crc32c } from '../../lib/core/crc32c.ts';
import {
  batGeometry,
  bitmapIndex,
  currentHeader,
  decodeMetadataTable,
  decodeParameters,
  encodeHeader,
  encodeMetadata,
  NO_GUID,
  parameterEntries,
  parentFilename,
  payloadIndex,
  readGuid,
  writeGuid,
} from '../../lib/layouts/vhdx/index.ts';

const MIB = 1024 * 1024;

test('CRC-32C has the check value of its definition, whole and in parts', (t) => {
  const bytes = Buffer.from('123456789');
  t.is(crc32c(bytes), 0xe3069283);
  t.is(crc32c(bytes.subarray(4), crc32c(bytes.subarray(0, 4))), 0xe3069283);
  t.is(crc32c(Buffer.alloc(0)), 0);
  // RFC 3720, appendix B.4.
  t.is(crc32c(Buffer.alloc(32)), 0x8a9136aa);
  t.is(crc32c(Buffer.alloc(32, 0xff)), 0x62a8ab43);
});

test('the first three parts of a GUID are little-endian numbers', (t) => {
  const text = '2dc27766-f623-4200-9d64-115e9bfd4a08';
  const bytes = Buffer.alloc(20);
  writeGuid(bytes, 2, text);
  t.is(bytes.toString('hex'), '00006677c22d23f600429d64115e9bfd4a080000');
  t.is(readGuid(bytes, 2), text);
});

test('of two headers the valid one with the higher number is current', (t) => {
  const make = (sequence: bigint) =>
    encodeHeader({
      sequence,
      fileWriteGuid: NO_GUID,
      dataWriteGuid: NO_GUID,
      logGuid: NO_GUID,
      logLength: MIB,
      logOffset: MIB,
    });
  const [low, high] = [make(2n ** 63n), make(2n ** 63n + 1n)];
  t.is(currentHeader([low, high]).slot, 1);
  t.is(currentHeader([high, low]).slot, 0);
  const broken = Buffer.from(high);
  broken[4000] ^= 1;
  t.is(currentHeader([broken, low]).header.sequence, 2n ** 63n);
  t.throws(() => currentHeader([broken, Buffer.alloc(4096)]), { name: 'ImageError', message: /No valid VHDX header/ });
});

test('a BAT has an entry of a sector bitmap behind each chunk, and behind the last one if there is a parent', (t) => {
  const shape = { blockSize: MIB, logicalSectorSize: 512, hasParent: false };
  t.deepEqual(batGeometry({ ...shape, size: 0 }), { blocks: 0, chunkRatio: 4096, entries: 0 });
  t.is(batGeometry({ ...shape, size: 4096 * MIB }).entries, 4096);
  t.is(batGeometry({ ...shape, size: 4096 * MIB + 512 }).entries, 4098);
  t.is(batGeometry({ ...shape, size: 512, hasParent: true }).entries, 4097);
  t.is(batGeometry({ ...shape, size: 512, logicalSectorSize: 4096, hasParent: true }).entries, 32_769);
  t.is(payloadIndex(4095, 4096), 4095);
  t.is(bitmapIndex(0, 4096), 4096);
  t.is(payloadIndex(4096, 4096), 4097);
  t.is(bitmapIndex(1, 4096), 8193);
});

test('metadata say what they were made of', (t) => {
  const parameters = {
    blockSize: 32 * MIB,
    leaveAllocated: true,
    hasParent: false,
    size: 40 * 2 ** 40 + 4096,
    diskId: '00112233-4455-6677-8899-aabbccddeeff',
    logicalSectorSize: 4096,
    physicalSectorSize: 4096,
  };
  const region = encodeMetadata(parameters);
  const entries = parameterEntries(decodeMetadataTable(region));
  const bytesOf = ({ offset, length }: { offset: number; length: number }) => region.subarray(offset, offset + length);
  const items = Object.fromEntries(Object.entries(entries).map(([name, entry]) => [name, bytesOf(entry)]));
  t.deepEqual(decodeParameters(items as unknown as Parameters<typeof decodeParameters>[0]), parameters);
});

test('a parent’s filename is made one of this system', (t) => {
  const name = (paths: { relativePath?: string; absolutePath?: string; volumePath?: string }) =>
    parentFilename({ linkages: [], relativePath: null, absolutePath: null, volumePath: null, ...paths });
  t.is(name({ relativePath: '.\\parent.vhdx' }), 'parent.vhdx');
  t.is(name({ relativePath: '..\\base disks\\parent.vhdx', absolutePath: 'C:\\x.vhdx' }), '../base disks/parent.vhdx');
  t.is(name({ absolutePath: '\\\\?\\C:\\vm\\parent.vhdx' }), 'parent.vhdx');
  t.is(name({ volumePath: '\\\\?\\Volume{26a21bda}\\parent.vhdx' }), 'parent.vhdx');
  t.is(name({ relativePath: 'nbd:localhost:1' }), './nbd:localhost:1', 'no protocol');
  t.is(name({ relativePath: 'json:{}' }), './json:{}');
  t.is(name({}), null);
  t.is(name({ absolutePath: 'C:\\' }), null);
});
