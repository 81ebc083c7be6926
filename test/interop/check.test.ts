import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { GALLERY_NAMES, type GalleryImage, galleryTools, qcow2Gallery } from '../support/images.ts';
import { bundleProgram, type Program } from '../support/program.ts';
import { SPOILS } from '../support/qcow2-spoils.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';

let program: Program;
test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program?.remove());

const qemuImg = tool('qemu-img');

/** New places for tables are the business of each program: where an image ends then may differ. */
const END_OFFSET = /^Image end offset: .*\n|^ *"image-end-offset": .*\n/gm;

/** Runs a check with both, each on a copy of its own by the same name, and compares all that they say. */
function sameCheck(
  t: import('ava').ExecutionContext,
  directory: string,
  bytes: Buffer,
  options: readonly string[],
  drop = /(?!)/g,
): Buffer {
  const path = join(directory, 'checked.qcow2');
  const args = ['check', ...options, 'checked.qcow2'];
  writeFileSync(path, bytes);
  const theirs = qemuImg.run(args, { cwd: directory });
  writeFileSync(path, bytes);
  const ours = program.run(args, { cwd: directory });
  t.is(ours.stderr, theirs.stderr, args.join(' '));
  t.is(ours.text.replace(drop, ''), theirs.text.replace(drop, ''), args.join(' '));
  t.is(ours.status, theirs.status, args.join(' '));
  return readFileSync(path);
}

test('check says of sound images of every kind what qemu-img says, for people and as JSON', async (t) => {
  if (galleryTools().some((each) => each.missing(t))) return;
  await withTmpDir(async (directory) => {
    for (const [index, { bytes }] of qcow2Gallery(directory, GALLERY_NAMES).entries()) {
      sameCheck(t, directory, bytes, index % 3 === 0 ? ['--output=json', '-f', 'qcow2'] : []);
    }
  });
});

function contentsOf(directory: string, { name }: GalleryImage): Buffer {
  qemuImg.expect(['convert', '-O', 'raw', 'checked.qcow2', 'repaired.raw'], { cwd: directory });
  if (name !== 'snapshots') return readFileSync(join(directory, 'repaired.raw'));
  const convert = ['convert', '-O', 'raw', '-l', 'first', 'checked.qcow2', 'snapshot.raw'];
  qemuImg.expect(convert, { cwd: directory });
  return Buffer.concat(['repaired.raw', 'snapshot.raw'].map((file) => readFileSync(join(directory, file))));
}

for (const { name, image, other = false, spoil } of SPOILS) {
  test.serial(`${name}: found and repaired in qemu-img's words, to what qemu-img calls clean`, async (t) => {
    if (galleryTools().some((each) => each.missing(t))) return;
    await withTmpDir(async (directory) => {
      const [sound] = qcow2Gallery(directory, [image]);
      const bytes = Buffer.from(sound.bytes);
      spoil(bytes);
      writeFileSync(join(directory, 'checked.qcow2'), other ? bytes : sound.bytes);
      const contents = contentsOf(directory, sound);
      t.false(bytes.equals(sound.bytes));
      sameCheck(t, directory, bytes, []);
      sameCheck(t, directory, bytes, ['--output=json', '-r', 'leaks'], END_OFFSET);
      const repaired = sameCheck(t, directory, bytes, ['-r', 'all'], END_OFFSET);
      const again = qemuImg.run(['check', 'checked.qcow2'], { cwd: directory });
      t.is(again.status, 0, again.text + again.stderr);
      t.true(contentsOf(directory, sound).equals(contents));
      const second = program.run(['check', '-r', 'all', 'checked.qcow2'], { cwd: directory });
      t.is(second.status, 0);
      t.true(readFileSync(join(directory, 'checked.qcow2')).equals(repaired), 'a second repair changes nothing');
    });
  });
}

test('wrong command lines and formats without a check are told, with the exit codes of qemu-img', async (t) => {
  if (galleryTools().some((each) => each.missing(t))) return;
  await withTmpDir(async (directory) => {
    const [{ bytes }] = qcow2Gallery(directory, ['plain']);
    writeFileSync(join(directory, 'image.qcow2'), bytes);
    const lines = [
      [],
      ['a', 'b'],
      ['missing.qcow2'],
      ['base.raw'],
      ['-f', 'raw', 'base.raw'],
      ['--output=json', '-f', 'raw', 'base.raw'],
      ['-f', 'qed', 'image.qcow2'],
      ['-r', 'everything', 'image.qcow2'],
      ['-T', 'fast', 'image.qcow2'],
      ['--output=xml', 'image.qcow2'],
      ['-U', '-r', 'all', 'image.qcow2'],
      ['-q', 'image.qcow2'],
      ['-q', '--output=json', 'image.qcow2'],
      ['-T', 'none', 'image.qcow2'],
      ['--output=json', '--image-opts', 'driver=qcow2,file.filename=image.qcow2'],
      ['-f', 'qcow2', '--image-opts', 'driver=qcow2,file.filename=image.qcow2'],
    ];
    for (const line of lines) {
      const theirs = qemuImg.run(['check', ...line], { cwd: directory });
      const ours = program.run(['check', ...line], { cwd: directory });
      t.deepEqual([ours.status, ours.text, ours.stderr], [theirs.status, theirs.text, theirs.stderr], line.join(' '));
    }
  });
});
