import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { drivers } from '../../lib/formats/index.ts';
import { type OpenedImage, openImage } from '../../lib/sources/open.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { collectMap } from '../conformance/checks.ts';
import { Random } from '../support/model.ts';
import { withTmpDir } from '../support/tmp.ts';
import {
  batEntry,
  chunkRatio,
  LOG_GUID,
  LOG_LENGTH,
  makeVhdx,
  seal,
  VHDX_PLACES,
  type VhdxLogEntry,
  type VhdxRecipe,
  WRITE_GUID,
} from '../support/vhdx.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const OTHER_GUID = 'ffffffff-0000-0000-0000-000000000001';

function open(bytes: Buffer): Promise<OpenedImage> {
  return openImage('memory', { drivers: drivers(), format: 'vhdx', storage: memoryStorage('memory', bytes) });
}

async function readAll({ chain }: OpenedImage): Promise<Buffer> {
  const disk = Buffer.alloc(chain.size, 0xee);
  await chain.read(0, disk);
  return disk;
}

async function contents(bytes: Buffer): Promise<Buffer> {
  const image = await open(bytes);
  return readAll(image).finally(() => image.close());
}

async function refused(t: ExecutionContext, bytes: Buffer, message: RegExp, kind = 'corrupt'): Promise<void> {
  const error = await t.throwsAsync(open(bytes).then(readAll), { name: 'ImageError', message });
  t.is((error as { kind?: string })?.kind, kind);
}

for (const sectorSize of [512, 4096]) {
  for (const blockSize of [MIB, 8 * MIB]) {
    test(`blocks in every state read as they should, with sectors of ${sectorSize} and blocks of ${blockSize}`, async (t) => {
      const bytes = new Random(1).bytes(blockSize);
      const size = 5 * blockSize + 3 * sectorSize;
      const image = await open(
        makeVhdx({
          size,
          blockSize,
          sectorSize,
          blocks: { 0: { state: 6, bytes }, 1: { state: 1 }, 2: { state: 2 }, 3: { state: 3 }, 5: { state: 6, bytes } },
        }),
      );
      const disk = Buffer.alloc(size);
      bytes.copy(disk);
      bytes.copy(disk, 5 * blockSize);
      t.true((await readAll(image)).equals(disk));
      const map = await collectMap(image.source, 0, size);
      t.deepEqual(
        map.map(({ kind, length }) => [kind, length]),
        [
          ['data', blockSize],
          ['zero', 3 * blockSize],
          ['unallocated', blockSize],
          ['data', 3 * sectorSize],
        ],
      );
      await image.close();
    });
  }
}

test('behind each chunk of the BAT comes the entry of a sector bitmap, also where pages of the BAT meet', async (t) => {
  const blocks = [4095, 4096, 8190, 8191, 8192, 12_287, 12_288];
  const bytes = blocks.map((block) => Buffer.alloc(MIB, block & 0xff));
  const stored = Object.fromEntries(blocks.map((block, index) => [block, { state: 6, bytes: bytes[index] }]));
  const image = await open(makeVhdx({ size: 13_000 * MIB, blocks: stored }));
  t.is(chunkRatio({ size: 0 }), 4096);
  const found = Buffer.alloc(MIB);
  for (const [index, block] of blocks.entries()) {
    await image.source.read(block * MIB, found);
    t.true(found.equals(bytes[index]), `${block}`);
  }
  const map = await collectMap(image.source, 0, 13_000 * MIB);
  const there = map.filter(({ kind }) => kind === 'data');
  // Neighbours lie next to each other in the file too, so they are one extent.
  t.deepEqual(
    there.flatMap(({ offset, length }) => Array.from({ length: length / MIB }, (_, index) => offset / MIB + index)),
    blocks,
  );
  await image.close();
});

/** A differencing disk of three blocks: all of the first, some sectors of the second, none of the third. */
function child(
  sectorSize: number,
  linkage: string,
  paths: Record<string, string>,
): { file: Buffer; present: boolean[] } {
  const random = new Random(sectorSize);
  const present = Array.from({ length: MIB / sectorSize }, (_, index) => index < 20 || random.below(3) === 0);
  const file = makeVhdx({
    size: 3 * MIB,
    sectorSize,
    parent: { linkage, paths },
    blocks: {
      0: { state: 6, bytes: Buffer.alloc(MIB, 0xc0) },
      1: { state: 7, bytes: Buffer.alloc(MIB, 0xc1), sectors: present },
    },
  });
  return { file, present };
}

function makeParent(): Buffer {
  const bytes = (fill: number) => ({ state: 6, bytes: Buffer.alloc(MIB, fill) });
  return makeVhdx({ size: 3 * MIB, blocks: { 0: bytes(0xa0), 1: bytes(0xa1), 2: bytes(0xa2) } });
}

for (const sectorSize of [512, 4096]) {
  test(`a differencing disk takes each sector of ${sectorSize} bytes from where its bitmap says`, async (t) => {
    await withTmpDir(async (directory) => {
      const { file, present } = child(sectorSize, WRITE_GUID, { relative_path: '.\\up\\..\\parent.vhdx' });
      await writeFile(join(directory, 'parent.vhdx'), makeParent());
      await writeFile(join(directory, 'child.vhdx'), file);
      await mkdir(join(directory, 'up'));
      const image = await openImage(join(directory, 'child.vhdx'), { drivers: drivers() });
      const disk = Buffer.alloc(3 * MIB, 0xc0);
      disk.fill(0xa1, MIB).fill(0xa2, 2 * MIB);
      present.forEach((there, index) => {
        if (there) disk.fill(0xc1, MIB + index * sectorSize, MIB + (index + 1) * sectorSize);
      });
      t.is(image.backing?.driver.name, 'vhdx');
      t.true((await readAll(image)).equals(disk));
      const odd = Buffer.alloc(70_001);
      await image.chain.read(MIB - 777, odd);
      t.true(odd.equals(disk.subarray(MIB - 777, MIB - 777 + odd.length)));
      for (const each of await collectMap(image.source, 0, 3 * MIB)) {
        const first = each.offset < MIB || (each.offset < 2 * MIB && present[(each.offset - MIB) / sectorSize]);
        t.is(each.kind, first ? 'data' : 'unallocated');
      }
      await image.close();
    });
  });
}

test('a parent that is named by an absolute Windows path is looked for beside its child', async (t) => {
  await withTmpDir(async (directory) => {
    const { file } = child(512, WRITE_GUID, { absolute_win32_path: 'C:\\vm\\disks\\parent.vhdx' });
    await writeFile(join(directory, 'parent.vhdx'), makeParent());
    await writeFile(join(directory, 'child.vhdx'), file);
    const image = await openImage(join(directory, 'child.vhdx'), { drivers: drivers() });
    t.deepEqual(image.source.backing, { filename: 'parent.vhdx', format: 'vhdx' });
    await image.close();
  });
});

test('a parent that was written to since is refused, and a missing one named', async (t) => {
  await withTmpDir(async (directory) => {
    const path = join(directory, 'child.vhdx');
    await writeFile(path, child(512, OTHER_GUID, { relative_path: 'parent.vhdx' }).file);
    await t.throwsAsync(openImage(path, { drivers: drivers() }), { message: /parent\.vhdx.*No such file/ });
    await writeFile(join(directory, 'parent.vhdx'), makeParent());
    await t.throwsAsync(openImage(path, { drivers: drivers() }), { message: /is not what it was/ });
    const image = await openImage(path, { drivers: drivers(), metadataOnly: true, backing: false });
    t.is(image.source.backing?.filename, 'parent.vhdx');
    await image.close();
  });
});

test('whoever refuses implicit files refuses parents', async (t) => {
  await withTmpDir(async (directory) => {
    const path = join(directory, 'child.vhdx');
    await writeFile(path, child(512, WRITE_GUID, { relative_path: '../../etc/shadow' }).file);
    await t.throwsAsync(openImage(path, { drivers: drivers(), implicit: 'refuse' }), { message: /may not be opened/ });
  });
});

/** A disk of two blocks, both of which lie in the file, and of which the BAT knows none. */
function withLog(log: readonly VhdxLogEntry[], more: Partial<VhdxRecipe> = {}): Buffer {
  const blocks = { 0: { state: 6, bytes: Buffer.alloc(MIB, 0x11) }, 1: { state: 6, bytes: Buffer.alloc(MIB, 0x22) } };
  const file = makeVhdx({ size: 2 * MIB, blocks, log, ...more });
  file.fill(0, VHDX_PLACES.bat, VHDX_PLACES.bat + 16);
  return file;
}

/** The BAT's first sector as it is when these blocks are there. */
function bat(...blocks: (0 | 1)[]): { offset: number; bytes: Buffer } {
  const bytes = Buffer.alloc(4096);
  for (const block of blocks) batEntry(6, VHDX_PLACES.blocks + block * MIB).copy(bytes, 8 * block);
  return { offset: VHDX_PLACES.bat, bytes };
}

function disk(...blocks: (0 | 1)[]): Buffer {
  const bytes = Buffer.alloc(2 * MIB);
  for (const block of blocks) bytes.fill(block === 0 ? 0x11 : 0x22, block * MIB, (block + 1) * MIB);
  return bytes;
}

const LOGS: { title: string; log: VhdxLogEntry[]; blocks: (0 | 1)[] }[] = [
  { title: 'of one entry', log: [{ place: 0, sequence: 1n, updates: [bat(0, 1)] }], blocks: [0, 1] },
  {
    title: 'of entries that follow each other',
    log: [
      { place: 0, sequence: 8n, updates: [bat(0)] },
      { place: 8192, tail: 0, sequence: 9n, updates: [bat(0, 1)] },
    ],
    blocks: [0, 1],
  },
  {
    title: 'that goes on at its start',
    log: [
      { place: LOG_LENGTH - 8192, sequence: 8n, updates: [bat(0, 1)] },
      { place: 0, tail: LOG_LENGTH - 8192, sequence: 9n, updates: [] },
    ],
    blocks: [0, 1],
  },
  {
    title: 'with an entry that wraps around',
    log: [{ place: LOG_LENGTH - 4096, sequence: 2n ** 40n, updates: [bat(1)] }],
    blocks: [1],
  },
  {
    title: 'whose newest sequence is not its first',
    log: [
      { place: 0, sequence: 5n, updates: [bat(0, 1)] },
      { place: 65_536, sequence: 6n, updates: [bat(1)] },
      { place: 131_072, sequence: 4n, updates: [bat(0)] },
    ],
    blocks: [1],
  },
  {
    title: 'whose entries before the tail have arrived',
    log: [
      { place: 0, sequence: 5n, updates: [bat(0)] },
      { place: 8192, tail: 8192, sequence: 6n, updates: [bat(1)] },
    ],
    blocks: [1],
  },
  {
    title: 'that clears what it wrote',
    log: [
      { place: 0, sequence: 5n, updates: [bat(0, 1), { offset: VHDX_PLACES.bat, zeros: 8192 }] },
      { place: 8192, tail: 0, sequence: 6n, updates: [bat(1)] },
    ],
    blocks: [1],
  },
  {
    title: 'with entries of an earlier log',
    log: [
      { place: 0, sequence: 5n, updates: [bat(0)] },
      { place: 8192, tail: 0, sequence: 6n, updates: [bat(0, 1)], guid: OTHER_GUID },
    ],
    blocks: [0],
  },
  {
    title: 'of more descriptors than a sector holds',
    log: [
      {
        place: 0,
        sequence: 3n,
        updates: [...Array.from({ length: 140 }, () => ({ offset: VHDX_PLACES.bat + 8192, zeros: 4096 })), bat(0, 1)],
      },
    ],
    blocks: [0, 1],
  },
  { title: 'that is in use and has no entry yet', log: [], blocks: [] },
];

for (const { title, log, blocks } of LOGS) {
  test(`a log ${title} is replayed in memory, and the file stays as it is`, async (t) => {
    const file = withLog(log);
    const storage = memoryStorage('dirty', file);
    const image = await openImage('dirty', { drivers: drivers(), format: 'vhdx', storage });
    t.true((await readAll(image)).equals(disk(...blocks)));
    t.true(storage.bytes().equals(file));
    await image.close();
  });
}

test('a newest entry that was cut off does not count, and the one before it does', async (t) => {
  const file = withLog([
    { place: 0, sequence: 8n, updates: [bat(0)] },
    { place: 8192, tail: 0, sequence: 9n, updates: [bat(0, 1)] },
  ]);
  for (const at of [8192, 8192 + 70, 8192 + 4096 + 100, 8192 + 8191]) {
    const torn = Buffer.from(file);
    torn[VHDX_PLACES.log + at] ^= 0x40;
    t.true((await contents(torn)).equals(disk(0)), `${at}`);
  }
});

test('a log of which no entry is complete, or that tells of a longer file, is refused', async (t) => {
  const torn = withLog([{ place: 0, sequence: 8n, updates: [bat(0)] }]);
  torn[VHDX_PLACES.log + 5000] ^= 1;
  await refused(t, torn, /no valid sequence/);
  const first = withLog([{ place: 0, sequence: 1n, updates: [bat(0)] }]);
  first[VHDX_PLACES.log + 5000] ^= 1;
  t.true((await contents(first)).equals(disk()), 'the first entry ever, cut off: nothing has changed yet');
  const longer = withLog([{ place: 0, sequence: 8n, updates: [bat(0)], flushedSize: 64 * MIB }]);
  await refused(t, longer, /shorter than its log says/);
});

test('a log may change neither headers nor itself', async (t) => {
  for (const offset of [0, 64 * KIB, 188 * KIB, VHDX_PLACES.log, VHDX_PLACES.log + LOG_LENGTH - 4096]) {
    const update = { offset, bytes: Buffer.alloc(4096) };
    await refused(t, withLog([{ place: 0, sequence: 8n, updates: [update] }]), /would overwrite/);
  }
  await refused(
    t,
    withLog([{ place: 0, sequence: 8n, updates: [{ offset: 512 * KIB, zeros: MIB }] }]),
    /would overwrite/,
  );
});

test('a log that clears more than memory should hold is refused for reading', async (t) => {
  const updates = [{ offset: 8 * MIB, zeros: 2 ** 40 }];
  await refused(t, withLog([{ place: 0, sequence: 8n, updates }]), /more than can be kept/, 'unsupported');
});

test('the header with the higher number counts, unless its checksum is wrong', async (t) => {
  const file = makeVhdx({ size: MIB, blocks: { 0: { state: 6, bytes: Buffer.alloc(MIB, 5) } } });
  const at = 128 * KIB;
  // The second one is current, and says that its log is in use.
  file.fill(0x77, at + 48, at + 64);
  file.writeUInt32LE(0, at + 68);
  await t.notThrowsAsync(contents(file));
  seal(file, at, 4096);
  await refused(t, file, /log is in use, and empty/);
});

test('the second region table serves where the first is broken; with none, the file is refused', async (t) => {
  const file = makeVhdx({ size: MIB, blocks: { 0: { state: 6, bytes: Buffer.alloc(MIB, 5) } } });
  file[192 * KIB + 40] ^= 1;
  t.true((await contents(file)).equals(Buffer.alloc(MIB, 5)));
  file[256 * KIB + 40] ^= 1;
  await refused(t, file, /No valid VHDX region table/);
});

test('what is required and not known is refused, and what is not required left alone', async (t) => {
  const file = makeVhdx({ size: MIB });
  const third = 192 * KIB + 16 + 64;
  file.writeUInt32LE(3, 192 * KIB + 8);
  file.fill(0x99, third, third + 16);
  file.writeBigUInt64LE(BigInt(64 * MIB), third + 16);
  seal(file, 192 * KIB, 64 * KIB);
  await t.notThrowsAsync(contents(file));
  file.writeUInt32LE(1, third + 28);
  seal(file, 192 * KIB, 64 * KIB);
  await refused(t, file, /Unknown required VHDX region 99999999/, 'unsupported');

  const other = makeVhdx({ size: MIB });
  const item = VHDX_PLACES.metadata + 32 + 5 * 32;
  other.writeUInt16LE(6, VHDX_PLACES.metadata + 10);
  other.fill(0x99, item, item + 16);
  await t.notThrowsAsync(contents(other));
  other.writeUInt32LE(5, item + 24);
  await refused(t, other, /Unknown required VHDX metadata item/, 'unsupported');
});

test('blocks in places that belong to something else, or that are not there, are refused', async (t) => {
  const make = (state: number, offset: number) => {
    const file = makeVhdx({ size: MIB, blocks: { 0: { state: 6, bytes: Buffer.alloc(MIB, 5) } } });
    batEntry(state, offset).copy(file, VHDX_PLACES.bat);
    return file;
  };
  for (const offset of [0, ...Object.values(VHDX_PLACES).slice(0, 3)]) {
    await refused(t, make(6, offset), /overlaps the structures/);
  }
  await refused(t, make(6, 5 * MIB), /ends before the data/);
  await refused(t, make(6, 2 ** 50), /ends before the data/);
  await refused(t, make(5, VHDX_PLACES.blocks), /unknown state 5/);
  await refused(t, make(7, VHDX_PLACES.blocks), /the disk has no parent/);
});

test('a log guid that belongs to no entry is no log', async (t) => {
  const file = withLog([{ place: 0, sequence: 8n, updates: [bat(0, 1)], guid: LOG_GUID }], { logGuid: OTHER_GUID });
  t.true((await contents(file)).equals(disk()));
});
