import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { bundleProgram, type Program } from '../support/program.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { lines, words } from '../support/words.ts';

const qemuImg = tool('qemu-img');
let program: Program;
test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program?.remove());

// `snapshot -a` is not among them: qemu-img opens the image twice, and warns twice.
const LINES = lines(`
  resize raw 2M
  resize ./raw +1M
  resize -f raw raw 2M
  resize --shrink raw 512k
  resize raw 512k
  resize --preallocation=metadata raw 2M
  resize raw xx
  resize empty 1M
  resize nosuch 1M
  resize file:raw 2M
  resize --image-opts file.filename=raw 2M
  resize --image-opts driver=raw,file.filename=raw 2M
  resize --image-opts driver=file,filename=raw 2M
  resize 'json:{"file":{"driver":"file","filename":"raw"}}' 2M
  resize qcow2 2M
  check raw
  check -r all raw
  amend -o size=2M raw
  amend -o size=2M -f raw raw
  amend -o help raw
  amend raw
  snapshot raw
  snapshot -l raw
  snapshot -c a raw
  snapshot -d a raw
  snapshot -U -c a raw
  commit raw
  commit -b foo raw
  rebase -b nosuch raw
  rebase -u -b qcow2 -F qcow2 raw
  convert -n qcow2 raw
`);

for (const line of LINES) {
  test.serial(`warns of an image that seems to be raw where qemu-img does: ${line}`, async (t) => {
    if (qemuImg.missing(t)) return;
    await withTmpDir((directory) => {
      const run = (each: Pick<Program, 'run'>) => {
        writeFileSync(join(directory, 'raw'), Buffer.alloc(1024 * 1024, 5));
        writeFileSync(join(directory, 'empty'), '');
        qemuImg.expect(['create', '-q', '-f', 'qcow2', 'qcow2', '1M'], { cwd: directory });
        const { status, text, stderr } = each.run(words(line), { cwd: directory });
        return { status, text, stderr, after: readFileSync(join(directory, 'raw')).toString('latin1') };
      };
      t.deepEqual(run(program), run(qemuImg));
    });
  });
}
