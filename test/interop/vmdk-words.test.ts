import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { mixedDisk } from '../support/images.ts';
import { bundleProgram, type Program } from '../support/program.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { sameOpening } from './same-opening.ts';
import { patched, sameAsQemu, sameReading } from './same-words.ts';

const qemuImg = tool('qemu-img');
const KIB = 1024;
const SUBFORMATS = [
  'monolithicSparse',
  'monolithicFlat',
  'twoGbMaxExtentSparse',
  'twoGbMaxExtentFlat',
  'streamOptimized',
];

let program: Program;
test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program?.remove());

test('info, map and measure say what qemu-img says of its images', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir((directory) => {
    const raw = join(directory, 'disk.raw');
    writeFileSync(raw, mixedDisk(700 * KIB));
    for (const subformat of SUBFORMATS) {
      const path = join(directory, `${subformat}.vmdk`);
      qemuImg.expect(['convert', '-f', 'raw', '-O', 'vmdk', '-o', `subformat=${subformat}`, raw, path]);
      sameReading(t, program, path);
    }
    const [below, top] = ['monolithicSparse', 'top'].map((name) => join(directory, `${name}.vmdk`));
    qemuImg.expect(['create', '-q', '-f', 'vmdk', '-b', below, '-F', 'vmdk', top]);
    sameReading(t, program, top);
    sameAsQemu(t, program, 'info --backing-chain --output=json {}', top);
  });
});

test('what cannot be made is refused in its words', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir((directory) => {
    const below = join(directory, 'below.raw');
    writeFileSync(below, Buffer.alloc(1024 * KIB));
    for (const options of [
      'adapter_type=foo',
      'subformat=foo',
      'compat6=on,hwversion=7',
      'zeroed_grain=on,subformat=monolithicFlat',
      'preallocation=metadata',
      'size=1M',
      'nothing=1',
      'compat6=maybe',
      `backing_file=${below},backing_fmt=raw`,
      'help',
    ]) {
      sameAsQemu(t, program, `create -f vmdk -o ${options} {} 1M`, join(directory, 'x.vmdk'));
    }
    sameAsQemu(t, program, 'create -f vmdk {}', join(directory, 'x.vmdk'));
    sameAsQemu(t, program, 'measure -O vmdk --size 1M', below);
    sameAsQemu(t, program, `create -f vmdk -u -b missing.vmdk -F vmdk {} 1M`, join(directory, 'x.vmdk'));
  });
});

test('a header that cannot be read is refused in its words', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const path = join(directory, 'disk.vmdk');
    qemuImg.expect(['create', '-q', '-f', 'vmdk', path, '4M']);
    const sound = readFileSync(path);
    const changes: [number, 4 | 8, bigint][] = [
      [4, 4, 4n],
      [4, 4, 2n],
      [20, 8, 0n],
      [44, 4, 0n],
      [44, 4, 1024n],
      [64, 8, 1000n],
      [12, 8, 2n ** 54n],
    ];
    for (const change of changes) {
      writeFileSync(path, patched(sound, change, 'little'));
      await sameOpening(t, 'vmdk', path, change.join(' '));
    }
  });
});
