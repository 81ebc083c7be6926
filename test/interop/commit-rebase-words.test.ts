import { cpSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { bundleProgram, type Program } from '../support/program.ts';
import { withTmpDir } from '../support/tmp.ts';
import { type ToolResult, tool } from '../support/tools.ts';
import { lines, words } from '../support/words.ts';

const qemuImg = tool('qemu-img');
const qemuIo = tool('qemu-io');

let program: Program;
/** The files as every command line finds them. */
let made: string;
test.before(async () => {
  program = await bundleProgram();
  made = mkdtempSync(join(tmpdir(), 'imgpipe-test-'));
  if (qemuImg.available && qemuIo.available) makeFiles(made);
});
test.after.always(() => {
  program?.remove();
  rmSync(made, { recursive: true, force: true });
});

const COMMIT = lines(`
  commit
  commit a b
  commit nosuch
  commit top
  commit -f qcow2 -q top
  commit -p top
  commit -d top
  commit -t foo top
  commit -t none top
  commit -r foo top
  commit -r 100M top
  commit -b nosuch top
  commit -b base top
  commit -b ./base top
  commit -b '' top
  commit -b top top
  commit -f raw base
  commit -f raw top
  commit -f foo top
  commit -f qcow2 longer
  commit -b base longer
  commit -b middle top3
  commit -b base top3
  commit top3
  commit --image-opts driver=qcow2,file.filename=top
  commit --image-opts -f qcow2 driver=qcow2,file.filename=top
  commit --image-opts top
  commit over-qcow
  commit over-vdi
  commit alone
  commit base
  commit -q base
  commit --image-opts file.filename=base
  commit -U top
  commit -x top
`);

const REBASE = lines(`
  rebase
  rebase top
  rebase a b
  rebase -b other top
  rebase -b other -F raw top
  rebase -b other -F raw nosuch
  rebase -b nosuch -F raw top
  rebase -b nosuch top
  rebase -b '' top
  rebase -b base -F foo top
  rebase -u -b base -F foo top
  rebase -u top
  rebase -u -F raw top
  rebase -u -b nosuch -F raw top
  rebase -u -b nosuch top
  rebase -t foo -b other -F raw top
  rebase -T foo -b other -F raw top
  rebase -T none -b other -F raw top
  rebase -t writethrough -b other -F raw top
  rebase -f raw -b other -F raw base
  rebase -b other -F raw over-qcow
  rebase -b other -F raw alone
  rebase -b other -F raw longer
  rebase -b base -F raw top3
  rebase -b other -F raw vdi
  rebase -b other vdi
  rebase -b nosuch -F raw vdi
  rebase -u -b nosuch vdi
  rebase -b '' qcow-over
  rebase -b '' base
  rebase -u -b top -F qcow2 base
  rebase -b nosuch -F raw file:base
  rebase -b '' -F foo top
  rebase -b '' -F '' top
  rebase -b '' -F qcow2 top
  rebase -u -F foo top
  rebase -u -b '' -F foo nosuch
  rebase -b other -F raw raw-data
  rebase -b other -F raw lost
  rebase -u -b other -F raw lost
  rebase --image-opts -b other -F raw driver=qcow2,file.filename=top
  rebase --image-opts -f qcow2 -b other -F raw driver=qcow2,file.filename=top
  rebase -x top
`);

function makeFiles(directory: string): void {
  const make = (...args: string[]) => qemuImg.expect(['create', '-q', '-f', ...args], { cwd: directory });
  const write = (format: string, name: string, ...commands: string[]) =>
    qemuIo.expect(['-f', format, ...commands.flatMap((each) => ['-c', each]), name], { cwd: directory });
  mkdirSync(join(directory, 'sub'));
  make('raw', 'base', '1M');
  write('raw', 'base', 'write -P 1 0 128k');
  make('raw', 'other', '1M');
  write('raw', 'other', 'write -P 1 0 64k', 'write -P 2 512k 64k');
  make('qcow2', '-b', 'base', '-F', 'raw', 'top');
  make('qcow2', '-b', 'base', '-F', 'raw', 'longer', '3M');
  make('qcow2', '-b', 'base', '-F', 'raw', 'middle');
  make('qcow2', '-b', 'middle', '-F', 'qcow2', 'top3');
  for (const name of ['top', 'longer', 'middle', 'top3']) write('qcow2', name, 'write -P 5 200k 100k');
  make('qcow', 'small-qcow', '1M');
  make('qcow', '-b', 'small-qcow', '-F', 'qcow', 'qcow-over');
  make('qcow2', '-b', 'small-qcow', '-F', 'qcow', 'over-qcow', '2M');
  make('vdi', 'vdi', '1M');
  make('qcow2', '-b', 'vdi', '-F', 'vdi', 'over-vdi', '2M');
  make('qcow2', 'alone', '1M');
  make('qcow2', '-o', 'data_file=data,data_file_raw=on', 'raw-data', '1M');
  make('qcow2', '-u', '-b', 'gone', '-F', 'raw', 'lost', '1M');
}

/** What is told; how the progress is counted is each program's own. */
function told({ status, text, stderr }: ToolResult) {
  const shown = text.replace(/( {4}\(\d+\.\d+\/100%\)\r)+/g, '(progress)');
  return { status, text: shown, stderr };
}

for (const line of [...COMMIT, ...REBASE]) {
  test.serial(`says what qemu-img says, and shows the same disks after it: ${line}`, async (t) => {
    if (qemuImg.missing(t) || qemuIo.missing(t)) return;
    await withTmpDir((directory) => {
      const [theirs, ours] = ['theirs', 'ours'].map((name) => join(directory, name));
      for (const each of [theirs, ours]) cpSync(made, each, { recursive: true });
      const expected = told(qemuImg.run(words(line), { cwd: theirs }));
      t.deepEqual(told(program.run(words(line), { cwd: ours })), expected);
      if (expected.status !== 0) return;
      const name = words(line).at(-1)?.replace(/^.*=/, '') ?? '';
      const info = (cwd: string) => {
        const shown = JSON.parse(qemuImg.expect(['info', '--output=json', name], { cwd }));
        return [shown.format, shown['virtual-size'], shown['backing-filename'], shown['backing-filename-format']];
      };
      t.deepEqual(info(ours), info(theirs));
      // An unsafe rebase may leave an image that nobody can read.
      if (words(line).includes('-u')) return;
      for (const each of ['base', name]) {
        const { status, stderr } = qemuImg.run(['compare', join(ours, each), join(theirs, each)]);
        t.is(status, 0, `${each}: ${stderr}`);
      }
    });
  });
}
