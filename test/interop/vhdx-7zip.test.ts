import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { convert } from '../../lib/index.ts';
import { readAll, withImage } from '../sources/oracle.ts';
import { Random } from '../support/model.ts';
import { sparseDisk } from '../support/sparse-disk.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { makeVhdx, type VhdxRecipe } from '../support/vhdx.ts';

// QEMU refuses large sectors and differencing disks; 7-Zip reads both, if their size is in whole mebibytes.
const sevenZip = tool('7zz');
const MIB = 1024 * 1024;

/** What 7-Zip takes out of the image. */
function extracted(directory: string, name: string): Buffer {
  const out = join(directory, `${name}-out`);
  mkdirSync(out);
  sevenZip.expect(['x', '-y', `-o${out}`, `${name}.vhdx`], { cwd: directory });
  return readFileSync(join(out, `${name}.img`));
}

const LARGE_SECTORS: VhdxRecipe = {
  size: 7 * MIB,
  sectorSize: 4096,
  blockSize: 2 * MIB,
  blocks: {
    0: { state: 6, bytes: Buffer.alloc(2 * MIB, 1) },
    1: { state: 2 },
    3: { state: 6, bytes: new Random(1).bytes(2 * MIB) },
  },
};

test('a disk with sectors of 4096 bytes reads as 7-Zip reads it', async (t) => {
  if (sevenZip.missing(t)) return;
  await withTmpDir(async (directory) => {
    const path = join(directory, 'large.vhdx');
    writeFileSync(path, makeVhdx(LARGE_SECTORS));
    const found = await withImage(path, async ({ chain }) => readAll(chain));
    t.true(found.equals(extracted(directory, 'large')));
  });
});

function guidOf(layer: number): string {
  return `0000000${layer}-1111-2222-3333-444444444444`;
}

for (const sectorSize of [512, 4096]) {
  test(`a differencing disk over its parent with sectors of ${sectorSize} reads as 7-Zip reads it`, async (t) => {
    if (sevenZip.missing(t)) return;
    await withTmpDir(async (directory) => {
      const random = new Random(sectorSize);
      for (const layer of [0, 1]) {
        const sectors = Array.from({ length: MIB / sectorSize }, () => random.below(3) === 0);
        const partly = { state: layer === 0 ? 6 : 7, bytes: Buffer.alloc(MIB, 0x10 + layer), sectors };
        const parent = { linkage: guidOf(layer - 1), paths: { relative_path: `.\\layer${layer - 1}.vhdx` } };
        const bytes = makeVhdx({
          size: 4 * MIB,
          sectorSize,
          blocks: { 0: partly, [layer]: { state: 6, bytes: Buffer.alloc(MIB, 0x20 + layer) }, 3: partly },
          parent: layer === 0 ? undefined : parent,
          dataWriteGuid: guidOf(layer),
          diskId: layer + 1,
        });
        writeFileSync(join(directory, `layer${layer}.vhdx`), bytes);
      }
      const found = await withImage(join(directory, 'layer1.vhdx'), async ({ chain }) => readAll(chain));
      t.is(new Set(found).size, 5, 'bytes of both, and zeros');
      t.true(found.equals(extracted(directory, 'layer1')));
    });
  });
}

test('images made here are read by 7-Zip', async (t) => {
  if (sevenZip.missing(t)) return;
  await withTmpDir(async (directory) => {
    const raw = join(directory, 'raw');
    const contents = sparseDisk(9 * MIB, 4);
    writeFileSync(raw, contents);
    const sets: Readonly<Record<string, Record<string, string>>> = {
      dynamic: {},
      small: { block_size: '1M', block_state_zero: 'off' },
      fixed: { subformat: 'fixed' },
    };
    for (const [name, createOptions] of Object.entries(sets)) {
      const output = { filename: join(directory, `${name}.vhdx`) };
      await convert({ inputs: [{ filename: raw, format: 'raw' }], output, outputFormat: 'vhdx', createOptions });
      t.true(extracted(directory, name).equals(contents), name);
    }
  });
});
