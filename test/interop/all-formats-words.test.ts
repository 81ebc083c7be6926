import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { drivers } from '../../lib/formats/index.ts';
import { bundleProgram, type Program } from '../support/program.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { sameAsQemu } from './same-words.ts';

const qemuImg = tool('qemu-img');
let program: Program;
test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program?.remove());

/** What is asked of each format that can be made; none of it makes an image. */
const LINES = [
  'create -f FORMAT -o help',
  'convert -O FORMAT -o help',
  'create -f FORMAT -o nope=1 {} 1M',
  'create -f FORMAT {}/no/such/place 1M',
  'create -f FORMAT {}',
  'create -f FORMAT -b {} -F raw -o preallocation=nope {}.new',
  'measure -O FORMAT --size 1M',
  'convert -f raw -O FORMAT {} {}/no/such/place',
];

for (const { name } of drivers().filter(({ create }) => create !== undefined)) {
  test(`${name}: help, wrong options and impossible places are told in qemu-img's words`, async (t) => {
    if (qemuImg.missing(t)) return;
    await withTmpDir((directory) => {
      const path = join(directory, 'disk.raw');
      writeFileSync(path, Buffer.alloc(65536));
      for (const line of LINES) {
        sameAsQemu(t, program, line.replace('FORMAT', name).replaceAll('{}', path), path);
      }
    });
  });
}

test('every format that qemu-img names is named, but for those that are only ways to reach or filter others', (t) => {
  if (qemuImg.missing(t)) return;
  const named = (text: string) => /^Supported formats: (.*)$/m.exec(text)?.[1].split(' ') ?? [];
  const ours = named(program.run(['--help']).text);
  const theirs = named(qemuImg.run(['--help']).text);
  t.deepEqual(
    ours,
    drivers()
      .map(({ name }) => name)
      .sort(),
  );
  for (const name of ours) t.true(theirs.includes(name), name);
});
