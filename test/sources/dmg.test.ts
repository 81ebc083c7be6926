import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { dmg } from '../../lib/formats/dmg.ts';
import { openImage } from '../../lib/sources/open.ts';
import type { Source } from '../../lib/sources/source.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { makeDmg } from '../support/dmg-images.ts';
import { pattern } from '../support/model.ts';

const SECTOR = 512;
const ENTRIES = 204;
const ENTRY = 40;

async function open(bytes: Buffer): Promise<Source> {
  const image = await openImage('image.dmg', { drivers: [dmg], storage: memoryStorage('image.dmg', bytes) });
  return image.source;
}

/** The image with its (only) block table changed; the table keeps its length. */
function withTable(bytes: Buffer, change: (table: Buffer) => void): Buffer {
  const text = bytes.toString('latin1');
  const match = /<data>([\sA-Za-z0-9+/=]+)<\/data>/.exec(text) as RegExpExecArray;
  const table = Buffer.from(match[1], 'base64');
  change(table);
  const copy = Buffer.from(bytes);
  copy.write(table.toString('base64').padEnd(match[1].length), match.index + '<data>'.length, 'latin1');
  return copy;
}

/** Sets a number of entry `index`: 8 sector, 16 sectors, 24 offset, 32 length. */
function entry(index: number, field: 8 | 16 | 24 | 32, value: bigint) {
  return (table: Buffer) => void table.writeBigUInt64BE(value, ENTRIES + index * ENTRY + field);
}

const DISK = Buffer.concat([pattern(64 * SECTOR, 1), Buffer.alloc(64 * SECTOR), pattern(100 * SECTOR, 2)]);
// Entries: data, a comment, zeros, data, data, the end.
const IMAGE = makeDmg(DISK, { chunkSectors: 64 });

async function failure(t: import('ava').ExecutionContext, bytes: Buffer, offset = 0): Promise<ImageError> {
  const attempt = (async () => (await open(bytes)).read(offset, Buffer.alloc(SECTOR)))();
  return (await t.throwsAsync(attempt, { instanceOf: ImageError })) as ImageError;
}

test('the map knows zeros and where raw bytes lie, though info calls all of it data', async (t) => {
  const source = await open(makeDmg(DISK, { chunkSectors: 64, chunks: ['raw', 'zlib'], lead: 1000 }));
  const map = await source.map(0, source.size);
  t.deepEqual(
    map.map(({ kind, offset, length, hostOffset, compressed }) => [kind, offset, length, hostOffset, compressed]),
    [
      ['data', 0, 64 * SECTOR, 1000, false],
      ['zero', 64 * SECTOR, 64 * SECTOR, -1, false],
      ['data', 128 * SECTOR, 64 * SECTOR, -1, true],
      ['data', 192 * SECTOR, 36 * SECTOR, map[3].hostOffset, false],
    ],
  );
  t.true(source.opaque);
});

test('sectors that no chunk holds cannot be read, and their neighbours can', async (t) => {
  // The chunk of zeros is one sector shorter; the last one too.
  const bytes = withTable(IMAGE, (table) => {
    entry(2, 16, 63n)(table);
    entry(4, 8, 193n)(table);
  });
  const source = await open(bytes);
  await source.read(0, Buffer.alloc(127 * SECTOR));
  await source.read(128 * SECTOR, Buffer.alloc(64 * SECTOR));
  for (const sector of [127, 192]) {
    const error = await failure(t, bytes, sector * SECTOR);
    t.is(error.message, `No chunk holds sector ${sector}`);
    t.is(error.format, 'dmg');
  }
});

test('chunks that claim the same sectors are refused, in whatever order they come', async (t) => {
  t.regex((await failure(t, withTable(IMAGE, entry(3, 8, 127n)))).message, /Two chunks hold sector 127/);
  t.regex((await failure(t, withTable(IMAGE, entry(4, 8, 0n)))).message, /Two chunks hold sector 0/);
  t.regex((await failure(t, withTable(IMAGE, entry(2, 16, 2n ** 40n)))).message, /Two chunks hold sector 128/);
});

test('chunks in another order read as they should', async (t) => {
  const bytes = withTable(IMAGE, (table) => {
    const [first, third] = [0, 3].map((index) =>
      Buffer.from(table.subarray(ENTRIES + index * ENTRY).subarray(0, ENTRY)),
    );
    third.copy(table, ENTRIES);
    first.copy(table, ENTRIES + 3 * ENTRY);
  });
  const found = Buffer.alloc(DISK.length);
  await (await open(bytes)).read(0, found);
  t.true(found.equals(DISK));
});

test('numbers that cannot be are refused before anything is taken for them', async (t) => {
  const cases: [(table: Buffer) => void, RegExp][] = [
    [entry(0, 16, 131_073n), /sector count 131073 for chunk 0 is larger than max \(131072\)/],
    [entry(0, 32, 67_108_865n), /length 67108865 for chunk 0 is larger than max \(67108864\)/],
    [entry(0, 8, 2n ** 63n), /Chunk 0 lies past any file's end/],
    [entry(0, 24, 2n ** 53n), /Chunk 0 lies past any file's end/],
    [entry(0, 24, BigInt(IMAGE.length)), /reaches past the end of the file/],
    [(table) => table.writeUInt32BE(0x8000_0004, ENTRIES), /ADC stream of a chunk is broken/],
    [(table) => table.writeUInt32BE(0x8000_0006, ENTRIES), /bzip2 stream of a chunk is broken/],
    [(table) => table.writeUInt32BE(0x8000_0007, ENTRIES), /LZFSE stream of a chunk is broken/],
    [(table) => table.writeUInt32BE(0x8000_0008, ENTRIES), /xz stream of a chunk is broken/],
    [(table) => table.writeUInt32BE(0x8000_0009, ENTRIES), /Chunks of type 0x80000009 are not supported/],
    [(table) => table.writeUInt32BE(1, ENTRIES), /A raw chunk is shorter than the sectors that it holds/],
  ];
  for (const [change, message] of cases) t.regex((await failure(t, withTable(IMAGE, change))).message, message);
});

test('a chunk that inflates to more or to less than it says is corrupt', async (t) => {
  for (const sectors of [1n, 63n]) {
    t.regex((await failure(t, withTable(IMAGE, entry(0, 16, sectors)))).message, /zlib stream/);
  }
  // The bomb: 16 MiB of zeros in 16 KiB, said to be a sector.
  const bomb = makeDmg(Buffer.alloc(32_768 * SECTOR), { zeros: ['zlib'], chunkSectors: 32_768 });
  const before = process.memoryUsage().rss;
  t.regex((await failure(t, withTable(bomb, entry(0, 16, 1n)))).message, /zlib stream/);
  t.true(process.memoryUsage().rss - before < 12 * 1024 * 1024);
});

test('a property list that is none is refused', async (t) => {
  for (const [from, to] of [
    ['</dict>', '</tict>'],
    ['<array>', '<arra\0>'],
    ['<key>blkx', '<key>&bad;'],
  ]) {
    const bytes = Buffer.from(IMAGE);
    const at = bytes.indexOf(from);
    bytes.write(to, at);
    t.regex((await failure(t, bytes)).message, /property list is damaged/, to);
  }
});
