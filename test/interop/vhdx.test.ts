import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { createImage } from '../../lib/formats/create.ts';
import { openTarget } from '../../lib/formats/open-target.ts';
import { vhdx } from '../../lib/formats/vhdx.ts';
import { convert } from '../../lib/index.ts';
import { createGate } from '../../lib/sources/gate.ts';
import { faultyStorage, replayEvents, type StorageEvent } from '../../lib/storage/faulty.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { readAll, withImage } from '../sources/oracle.ts';
import { pattern, Random } from '../support/model.ts';
import { bundleProgram, type Program } from '../support/program.ts';
import { sparseDisk } from '../support/sparse-disk.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { batEntry, makeVhdx, VHDX_PLACES, type VhdxLogEntry } from '../support/vhdx.ts';
import { sameAsQemu, sameReading } from './same-words.ts';
import { liveTogether } from './shared-life.ts';

const qemuImg = tool('qemu-img');
const qemuIo = tool('qemu-io');
const KIB = 1024;
const MIB = 1024 * KIB;

let program: Program;
test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program?.remove());

/**
 * Without what is random in each file: who made it, sequence numbers, GUIDs and the checksums over them. And without
 * the flag that BAT and metadata regions must be understood: the specification wants it, and QEMU leaves it out.
 */
function comparable(bytes: Buffer): Buffer {
  const metadata = Number(bytes.readBigUInt64LE(192 * KIB + 16 + 32 + 16));
  bytes.fill(0, 8, 520);
  for (const header of [64 * KIB, 128 * KIB]) bytes.fill(0, header + 4, header + 48);
  for (const table of [192 * KIB, 256 * KIB]) {
    for (const at of [4, 16 + 28, 48 + 28]) bytes.fill(0, table + at, table + at + 4);
  }
  return bytes.fill(0, metadata + 64 * KIB + 16, metadata + 64 * KIB + 32);
}

const LAYOUTS = [
  ['1', ''],
  ['1000', ''],
  ['1234567', 'block_size=1M'],
  ['10G', ''],
  ['33G', 'block_size=2M,log_size=3M'],
  ['101G', 'block_state_zero=off'],
  ['9T', 'block_size=256M,log_size=1500k'],
  ['33T', ''],
  ['64T', 'block_state_zero=off,subformat=dynamic'],
] as const;

test('new dynamic images are those of qemu-img to the byte, but for what is random', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir((directory) => {
    const [theirs, ours] = [join(directory, 'theirs'), join(directory, 'ours')];
    for (const [size, options] of LAYOUTS) {
      const given = options === '' ? [] : ['-o', options];
      qemuImg.expect(['create', '-q', '-f', 'vhdx', ...given, theirs, size]);
      t.is(program.run(['create', '-q', '-f', 'vhdx', ...given, ours, size]).stderr, '');
      const [expected, found] = [theirs, ours].map((path) => comparable(readFileSync(path)));
      t.true(found.equals(expected), `${size} ${options}`);
      qemuImg.expect(['check', '-f', 'vhdx', ours]);
    }
    sameReading(t, program, ours);
  });
});

test('what is said while images are made, and of options that make no sense, is what qemu-img says', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir((directory) => {
    const path = join(directory, 'new.vhdx');
    const lines = [
      'create -f vhdx -o help',
      'create -f vhdx -o help {}',
      'create -f vhdx {} 10M',
      'create -f vhdx -o subformat=fixed,block_state_zero=on,block_size=1,log_size=1 {} 10M',
      'create -f vhdx -o block_size=1M,block_state_zero=off,subformat=dynamic,preallocation=falloc {} 10M',
      'create -f vhdx -o block_size=257M {} 10M',
      'create -f vhdx -o block_size=3M {} 10M',
      'create -f vhdx -o log_size=0 {} 10M',
      'create -f vhdx -o log_size=4G {} 10M',
      'create -f vhdx -o log_size=4095.5M {} 10M',
      'create -f vhdx -o subformat=Dynamic {} 10M',
      'create -f vhdx -o subformat=sparse {} 10M',
      'create -f vhdx -o block_state_zero=maybe {} 10M',
      'create -f vhdx -o preallocation=metadata {} 10M',
      'create -f vhdx -o cluster_size=4k {} 10M',
      'create -f vhdx -o backing_file=x {} 10M',
      'create -f vhdx -b x {} 10M',
      'create -f vhdx {}',
      'create -f vhdx {} 65T',
      'create -f vhdx -o log_size=0,block_size=3M {} 65T',
      'create -f vhdx -o log_size=0,block_size=3M {} 1M',
      'measure -O vhdx --size 1G',
      'convert -c -f raw -O vhdx /dev/null {}',
      'convert -f raw -O vhdx -o subformat=sparse /dev/null {}',
    ];
    for (const line of lines) sameAsQemu(t, program, line, path);
  });
});

const OPTION_SETS: readonly Readonly<Record<string, string>>[] = [
  {},
  { block_size: '1M' },
  { block_size: '2M', block_state_zero: 'off' },
  { block_size: '1M', subformat: 'fixed' },
];

for (const [index, options] of OPTION_SETS.entries()) {
  test(`images that QEMU and we write in turns stay sound: ${JSON.stringify(options)}`, async (t) => {
    if (qemuImg.missing(t) || qemuIo.missing(t)) return;
    await withTmpDir(async (directory) => {
      const size = 9 * MIB + 512;
      const path = join(directory, 'image');
      await (await createImage({ filename: path, format: 'vhdx', size, options })).close();
      const life = { path, format: 'vhdx', model: Buffer.alloc(size), random: new Random(index), longest: 3 * MIB };
      await t.notThrowsAsync(liveTogether(life, index === 1 ? 2 : 1));
      sameReading(t, program, path);
    });
  });
}

test('disks of random contents are converted to images that QEMU reads, and QEMU’s are read here', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const [raw, image] = ['raw', 'image'].map((name) => join(directory, name));
    for (const [index, options] of OPTION_SETS.entries()) {
      const contents = sparseDisk(5 * MIB + 512 * (1 + index * 700), index);
      writeFileSync(raw, contents);
      await convert({
        inputs: [{ filename: raw, format: 'raw' }],
        output: { filename: image },
        outputFormat: 'vhdx',
        createOptions: options,
      });
      qemuImg.expect(['compare', '-f', 'raw', '-F', 'vhdx', raw, image]);
      qemuImg.expect(['check', '-f', 'vhdx', image]);
      const given = Object.entries(options).flatMap(([key, value]) => ['-o', `${key}=${value}`]);
      qemuImg.expect(['convert', '-f', 'raw', '-O', 'vhdx', ...given, raw, image]);
      t.true((await withImage(image, async ({ chain }) => readAll(chain))).equals(contents));
    }
  });
});

test('a disk of 40 TiB takes writes at both ends from QEMU and from us', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const size = 40 * 2 ** 40;
    for (const [block, make] of [
      ['32M', 'ours'],
      ['64M', 'theirs'],
    ] as const) {
      const path = join(directory, make);
      const options = ['-o', `block_size=${block},block_state_zero=off`, path, String(size)];
      if (make === 'ours') t.is(program.run(['create', '-q', '-f', 'vhdx', ...options]).stderr, '');
      else qemuImg.expect(['create', '-q', '-f', 'vhdx', ...options]);
      const last = size - 4096;
      qemuIo.expect(['-f', 'vhdx', '-c', 'write -P 1 0 4k', '-c', `write -P 2 ${last} 4k`, path]);
      const target = await openTarget(path, { format: 'vhdx', cache: 'unsafe' });
      const found = Buffer.alloc(4096);
      await target.source?.read(last, found);
      t.true(found.equals(Buffer.alloc(4096, 2)));
      await target.write(size / 2 - 2048, pattern(4096, 3));
      await target.write(last, Buffer.alloc(4096, 4));
      await target.close();
      const [first] = pattern(1, 3);
      const reads = [`read -P 1 0 4k`, `read -P ${first} ${size / 2 - 2048} 16`, `read -P 4 ${last} 4k`];
      const said = qemuIo.expect(['-f', 'vhdx', ...reads.flatMap((each) => ['-c', each]), path]);
      t.notRegex(said, /failed|error/i);
    }
  });
});

function readDisk(path: string): Promise<Buffer> {
  return withImage(path, async ({ chain }) => readAll(chain));
}

/** Two blocks that lie in the file; logs of several shapes make the BAT know them. */
function dirtyImages(): Buffer[] {
  const bat = (...blocks: number[]) => {
    const bytes = Buffer.alloc(4096);
    for (const block of blocks) batEntry(6, VHDX_PLACES.blocks + block * MIB).copy(bytes, 8 * block);
    return { offset: VHDX_PLACES.bat, bytes };
  };
  const logs: VhdxLogEntry[][] = [
    [{ place: 0, sequence: 4n, updates: [bat(0, 1)] }],
    [
      { place: 0, sequence: 4n, updates: [bat(0)] },
      { place: 8192, tail: 0, sequence: 5n, updates: [bat(0, 1)], lastSize: 9 * MIB },
    ],
    [{ place: MIB - 8192, sequence: 4n, updates: [bat(1), { offset: VHDX_PLACES.bat + 4096, zeros: 8192 }] }],
  ];
  return logs.map((log) => {
    const block = (fill: number) => ({ state: 6, bytes: Buffer.alloc(MIB, fill) });
    const file = makeVhdx({ size: 3 * MIB, blocks: { 0: block(0x11), 1: block(0x22) }, log });
    file.fill(0, VHDX_PLACES.bat, VHDX_PLACES.bat + 16);
    return file;
  });
}

test('a log is replayed to the same disk as by QEMU, in memory and into the file', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const [theirs, ours] = [join(directory, 'theirs'), join(directory, 'ours')];
    for (const [index, file] of dirtyImages().entries()) {
      writeFileSync(theirs, file);
      writeFileSync(ours, file);
      const before = await readDisk(ours);
      t.true(readFileSync(ours).equals(file));
      // QEMU replays only where it may write: `check` without -r says that it can't.
      t.not(qemuImg.run(['check', '-f', 'vhdx', theirs]).status, 0);
      qemuImg.expect(['check', '-q', '-r', 'all', '-f', 'vhdx', theirs]);
      t.true((await readDisk(theirs)).equals(before), `${index}`);
      const target = await openTarget(ours, { format: 'vhdx', cache: 'unsafe' });
      await target.write(2 * MIB, pattern(512, 1));
      await target.close();
      qemuImg.expect(['check', '-f', 'vhdx', ours]);
      writeFileSync(`${ours}.raw`, Buffer.concat([before.subarray(0, 2 * MIB), pattern(512, 1)]));
      qemuImg.expect(['convert', '-f', 'vhdx', '-O', 'raw', ours, `${theirs}.raw`]);
      t.true(
        readFileSync(`${theirs}.raw`)
          .subarray(0, 2 * MIB + 512)
          .equals(readFileSync(`${ours}.raw`)),
      );
    }
  });
});

test('whenever we are killed while we write, QEMU finds each byte old or new', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const path = join(directory, 'image');
    qemuImg.expect(['create', '-q', '-f', 'vhdx', '-o', 'block_size=1M', path, '6M']);
    qemuIo.expect(['-f', 'vhdx', '-c', 'write -P 7 0 1500k', path]);
    const start = readFileSync(path);
    const { old, now, events } = await recordWrites(start);
    for (let count = 0; count <= events.length; count += 1) {
      const memory = memoryStorage('crashed', start);
      await replayEvents(events.slice(0, count), memory);
      writeFileSync(path, memory.bytes());
      // Replays the log, where there is one.
      qemuImg.expect(['check', '-q', '-r', 'all', '-f', 'vhdx', path]);
      qemuImg.expect(['convert', '-f', 'vhdx', '-O', 'raw', path, `${path}.raw`]);
      const found = readFileSync(`${path}.raw`);
      const foreign = found.findIndex((byte, at) => byte !== old[at] && byte !== now[at]);
      t.is(foreign, -1, `after ${count} of ${events.length} operations`);
    }
    t.true(statSync(path).size > start.length);
  });
});

/** What our writing did to an image in memory, and its disk before and after. */
async function recordWrites(start: Buffer): Promise<{ old: Buffer; now: Buffer; events: StorageEvent[] }> {
  const old = Buffer.alloc(6 * MIB);
  old.fill(7, 0, 1500 * KIB);
  const now = Buffer.from(old);
  const events: StorageEvent[] = [];
  const storage = faultyStorage(memoryStorage('image', start), { record: events });
  const request = {
    storage,
    options: {},
    writable: true,
    cache: 'writeback',
    gate: createGate(),
    backing: null,
  } as const;
  const target = await vhdx.openTarget?.(request);
  for (const [round, [offset, length]] of [
    [1000, 5000],
    [2 * MIB + 5, 70_000],
    [5 * MIB - 100, 200],
  ].entries()) {
    const bytes = Buffer.alloc(length, 0xc0 + round);
    await target?.write(offset, bytes);
    bytes.copy(now, offset);
    if (round === 1) await target?.flush();
  }
  await target?.close();
  return { old, now, events };
}

test('a damaged image is refused in words of qemu-img, where it has any', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir((directory) => {
    const path = join(directory, 'image');
    const file = makeVhdx({ size: MIB });
    for (const header of [64 * KIB, 128 * KIB]) file[header + 30] ^= 1;
    writeFileSync(path, file);
    sameAsQemu(t, program, 'info {}', path);
    sameAsQemu(t, program, 'info -f vhdx {}', path);
  });
});
