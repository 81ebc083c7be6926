import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { drivers } from '../../../lib/formats/index.ts';
import { openImage } from '../../../lib/sources/open.ts';
import { esxDescriptor } from '../../support/esx-extents.ts';
import { pattern } from '../../support/model.ts';
import { withTmpDir } from '../../support/tmp.ts';

const KIB = 1024;

interface Opened {
  size: number;
  bytes: Buffer;
  /** What the gate was asked for. */
  asked: string[];
}

/** Opens a descriptor in a directory that has `data.bin`, and reads the disk. */
async function opened(lines: readonly string[], createType = 'monolithicFlat'): Promise<Opened> {
  return withTmpDir(async (directory) => {
    mkdirSync(join(directory, 'sub'));
    writeFileSync(join(directory, 'data.bin'), pattern(64 * KIB, 1));
    writeFileSync(join(directory, 'sub', 'data.bin'), pattern(64 * KIB, 2));
    writeFileSync(join(directory, 'disk.vmdk'), esxDescriptor(createType, lines));
    const asked: string[] = [];
    const implicit = (reference: string) => {
      asked.push(reference);
      return !reference.includes('shadow');
    };
    const image = await openImage(join(directory, 'disk.vmdk'), { drivers: drivers(), implicit });
    const bytes = Buffer.alloc(image.chain.size);
    await image.chain.read(0, bytes).finally(() => image.close());
    return { size: bytes.length, bytes, asked };
  });
}

test('extents follow each other: files from any sector on, and zeros', async (t) => {
  const { bytes, asked } = await opened([
    'RW 8 FLAT "data.bin" 16',
    'RW 4 ZERO',
    'RDONLY 2 FLAT "sub/data.bin" 0',
    'RW 0 FLAT "nothing" 0',
    '# RW 8 FLAT "comment" 0',
    '  RW 1 VMFS "data.bin"',
  ]);
  const [one, two] = [pattern(64 * KIB, 1), pattern(64 * KIB, 2)];
  const parts = [one.subarray(8 * KIB, 12 * KIB), Buffer.alloc(2 * KIB), two.subarray(0, KIB), one.subarray(0, 512)];
  t.true(bytes.equals(Buffer.concat(parts)));
  t.deepEqual(asked, ['data.bin', 'sub/data.bin', 'data.bin']);
});

test('every file that a descriptor names is asked of the gate, wherever it points', async (t) => {
  for (const name of ['/etc/shadow', '../../../../etc/shadow', `json:{'driver':'file','filename':'/etc/shadow'}`]) {
    await t.throwsAsync(opened([`RW 8 FLAT "${name}" 0`]), { message: /may not be opened/ }, name);
  }
  const { asked } = await opened(['RW 8 FLAT "sub/../data.bin" 0']);
  t.deepEqual(asked, ['sub/../data.bin']);
});

test('a descriptor that cannot be one is refused in words that name the line', async (t) => {
  const cases: [string[], RegExp][] = [
    [['RW 8 FLAT "data.bin"'], /Invalid extent line: RW 8 FLAT "data.bin"$/],
    [['RW 8 FLAT "data.bin" -1'], /Invalid extent line/],
    [['RW 8 SPARSE "data.bin" 0'], /Invalid extent line/],
    [['RW 8 VMFSRDM "data.bin"'], /Invalid extent line/],
    [['RW 8 SPARSE "data.bin"'], /Image not in VMDK format/],
    [['RW 8 SESPARSE "data.bin"'], /Bad const header magic/],
    [['RW 99999999999999999999 FLAT "data.bin" 0'], /File too large/],
    [['RW 9007199254740000 ZERO'], /File too large/],
    [['NOACCESS 8 FLAT "data.bin" 0'], /NOACCESS/],
    [['RW 8 FLAT "missing" 0'], /Could not open '.*missing': No such file or directory/],
  ];
  for (const [lines, message] of cases) await t.throwsAsync(opened(lines), { message, name: 'ImageError' }, lines[0]);
  await t.throwsAsync(opened(['RW 8 FLAT "data.bin" 0'], 'custom'), { message: /Unsupported image type 'custom'/ });
});

test('an extent that is shorter than the descriptor says is not filled up with zeros', async (t) => {
  await t.throwsAsync(opened(['RW 129 FLAT "data.bin" 0']), { message: /ends before the data/ });
  const { size } = await opened(['RW 128 FLAT "data.bin" 0']);
  t.is(size, 64 * KIB);
});
