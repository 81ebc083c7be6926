import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { checkMap } from '../conformance/checks.ts';
import { loadAll, readAll, withImage } from '../sources/oracle.ts';
import { esxDescriptor, makeCowd, makeSeSparse } from '../support/esx-extents.ts';
import { mixedDisk } from '../support/images.ts';
import { DiskModel, Random } from '../support/model.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';

const qemuImg = tool('qemu-img');
const KIB = 1024;
/** Of grains of a sector, half of it needs more than one table. */
const SIZE = 6 * 1024 * KIB;

interface Made {
  name: string;
  createType: string;
  lines: readonly string[];
  files: Readonly<Record<string, Buffer>>;
}

function images(disk: Buffer): Made[] {
  const half = SIZE / 2;
  const sectors = SIZE / 512;
  return [
    {
      name: 'VMFS, flat',
      createType: 'vmfs',
      lines: [`RW ${sectors} VMFS "whole-flat.vmdk"`],
      files: { 'whole-flat.vmdk': disk },
    },
    {
      name: 'flat, in two places of one file',
      createType: 'monolithicFlat',
      lines: [`RW ${sectors / 2} FLAT "mixed.bin" ${sectors / 2 + 3}`, `RW ${sectors / 2} FLAT "mixed.bin" 3`],
      files: { 'mixed.bin': Buffer.concat([Buffer.alloc(3 * 512, 9), disk.subarray(half), disk.subarray(0, half)]) },
    },
  ];
}

test('images of plain extents, in files of their own or shared ones, read as qemu-img reads them', async (t) => {
  if (qemuImg.missing(t)) return;
  const disk = mixedDisk(SIZE);
  for (const { name, createType, lines, files } of images(disk)) {
    await withTmpDir(async (directory) => {
      for (const [file, bytes] of Object.entries(files)) writeFileSync(join(directory, file), bytes);
      await t.notThrowsAsync(checkImage(directory, disk, esxDescriptor(createType, lines)), name);
    });
  }
});

async function checkImage(directory: string, disk: Buffer, descriptor: string): Promise<void> {
  const path = join(directory, 'disk.vmdk');
  writeFileSync(path, descriptor);
  writeFileSync(`${path}.raw`, disk);
  // The generator is right if QEMU says so.
  qemuImg.expect(['compare', '-f', 'raw', '-F', 'vmdk', `${path}.raw`, path]);
  await withImage(path, async ({ chain, source }) => {
    for (const read of [readAll, loadAll])
      if (!(await read(chain)).equals(disk)) throw new Error(`${read.name} differs`);
    const model = new DiskModel(disk.length);
    model.write(0, disk);
    await checkMap(source, model, new Random(2));
  });
}

const KINDS = [
  { createType: 'vmfsSparse', type: 'VMFSSPARSE', make: (disk: Buffer, random: Random) => makeCowd(disk, random, 1) },
  { createType: 'vmfsSparse', type: 'VMFSSPARSE', make: (disk: Buffer, random: Random) => makeCowd(disk, random, 16) },
  { createType: 'vmfsSparse', type: 'SPARSE', make: (disk: Buffer, random: Random) => makeCowd(disk, random, 128) },
  { createType: 'seSparse', type: 'SESPARSE', make: makeSeSparse },
];

for (const [number, { createType, type, make }] of KINDS.entries()) {
  test(`${type}, ${createType} ${number}: extents of ESX are read as QEMU reads them`, async (t) => {
    if (qemuImg.missing(t)) return;
    const disk = mixedDisk(SIZE);
    const half = SIZE / 2;
    await withTmpDir(async (directory) => {
      const random = new Random(number);
      const parts = { a: disk.subarray(0, half), b: disk.subarray(half) };
      for (const [name, part] of Object.entries(parts)) {
        writeFileSync(join(directory, `${name}.vmdk`), make(part, random));
      }
      const lines = Object.keys(parts).map((name) => `RW ${half / 512} ${type} "${name}.vmdk"`);
      await t.notThrowsAsync(checkImage(directory, disk, esxDescriptor(createType, lines)));
    });
  });
}
