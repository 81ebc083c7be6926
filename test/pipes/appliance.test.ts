import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { makeAppliance, makeTar } from '../support/appliance.ts';
import { bundleProgram, type Program } from '../support/program.ts';
import { type ShellResult, shellIn } from '../support/shell.ts';
import { sparseDisk } from '../support/sparse-disk.ts';
import { tool } from '../support/tools.ts';

const qemuImg = tool('qemu-img');
const tools = [qemuImg, tool('tar'), tool('gzip')];
const SIZE = 3 * 1024 * 1024 + 512;

let program: Program;
let directory: string;
let sh: (script: string) => ShellResult;

test.before(async () => {
  program = await bundleProgram();
  directory = mkdtempSync(join(tmpdir(), 'imgpipe-appliance-'));
  sh = shellIn(directory, program);
  if (tools.some(({ available }) => !available)) return;
  writeFileSync(at('disk.raw'), sparseDisk(SIZE, 3));
  convertTo('qcow2', 'disk.qcow2');
  convertTo('vmdk', 'disk1.vmdk', '-o', 'subformat=streamOptimized');
  makeAppliance(directory, 'one.ova', ['disk1.vmdk']);
  makeAppliance(directory, 'two.ova', ['disk1.vmdk', 'disk.qcow2']);
  makeTar(directory, 'bare.tar', ['disk.raw', 'disk.qcow2']);
});

test.after.always(() => {
  program?.remove();
  if (directory !== undefined) rmSync(directory, { recursive: true, force: true });
});

function at(name: string): string {
  return join(directory, name);
}

function convertTo(format: string, name: string, ...options: string[]): void {
  qemuImg.expect(['convert', '-f', 'raw', '-O', format, ...options, at('disk.raw'), at(name)]);
}

function gives(t: ExecutionContext, script: string, output: string): ShellResult {
  const result = sh(script);
  t.true(
    result.statuses.every((status) => status === 0),
    `${script}: ${result.statuses} ${result.stderr}`,
  );
  t.true(readFileSync(at(output)).equals(readFileSync(at('disk.raw'))), script);
  return result;
}

function refuses(t: ExecutionContext, script: string, message: RegExp, output: string): void {
  const { statuses, stderr } = sh(script);
  t.is(statuses.at(-1), 1, script);
  t.regex(stderr, message, script);
  t.false(existsSync(at(output)), script);
}

const missing = (t: ExecutionContext) => tools.some((each) => each.missing(t));

test('an appliance in a pipe is its disk, read on the way', (t) => {
  if (missing(t)) return;
  const { stderr } = gives(t, "cat one.ova | $IMGPIPE -T 'container_*' convert -O raw - out-1", 'out-1');
  t.regex(stderr, /^container_forward /m);
  gives(t, 'cat one.ova | $IMGPIPE dd -O raw if=- of=out-2', 'out-2');
  gives(t, 'gzip -c one.ova | $IMGPIPE convert -f vmdk -O raw - - > out-3', 'out-3');
  gives(t, '$IMGPIPE convert -O raw - out-4 < one.ova', 'out-4');
  gives(t, "cat two.ova | $IMGPIPE convert -O raw '-#disk.qcow2' out-5", 'out-5');
  gives(t, "cat two.ova | $IMGPIPE convert -O raw '-#disk1.vmdk' out-6", 'out-6');
});

test('an archive without a descriptor in a pipe is seen whole before its disk is known', (t) => {
  if (missing(t)) return;
  gives(t, 'cat bare.tar | $IMGPIPE convert -O raw - out-7', 'out-7');
  gives(t, "cat bare.tar | $IMGPIPE convert -f raw -O raw '-#disk.raw' out-8", 'out-8');
  sh('cat bare.tar | $IMGPIPE convert -f raw -O raw - out-9');
  t.true(readFileSync(at('out-9')).equals(readFileSync(at('bare.tar'))), 'unless it is a raw disk');
});

test('the other verbs take appliances, from files and pipes', (t) => {
  if (missing(t)) return;
  t.deepEqual(sh('$IMGPIPE compare -F raw one.ova disk.raw').statuses, [0]);
  t.deepEqual(sh('cat one.ova | $IMGPIPE compare -F raw - disk.raw').statuses, [0, 0]);
  t.is(
    sh('$IMGPIPE measure -O qcow2 one.ova').stdout.toString(),
    sh('qemu-img measure -O qcow2 disk1.vmdk').stdout.toString(),
  );
  t.regex(
    sh("$IMGPIPE info 'two.ova#disk.qcow2'").stdout.toString(),
    /^image: two\.ova#disk\.qcow2\nfile format: qcow2$/m,
  );
  t.regex(sh('$IMGPIPE map one.ova').stdout.toString() + sh('$IMGPIPE map one.ova').stderr, /./);
});

test('several disks, a wrong name and an archive that is cut off leave no output', (t) => {
  if (missing(t)) return;
  refuses(t, 'cat two.ova | $IMGPIPE convert -O raw - no-1', /name one of '-#disk1\.vmdk', '-#disk\.qcow2'$/m, 'no-1');
  refuses(t, '$IMGPIPE convert -O raw two.ova no-2', /name one of 'two\.ova#disk1\.vmdk'/, 'no-2');
  refuses(t, "cat two.ova | $IMGPIPE convert -O raw '-#disk2.vmdk' no-3", /The archive has no 'disk2\.vmdk'$/m, 'no-3');
  refuses(t, "cat disk.raw | $IMGPIPE convert -O raw '-#disk2.vmdk' no-4", /no tar archive/, 'no-4');
  refuses(t, 'head -c 100000 one.ova | $IMGPIPE convert -O raw - no-5', /ends/, 'no-5');
  refuses(t, 'head -c 100000 bare.tar | $IMGPIPE convert -f qcow2 -O raw - no-6', /Could not open '-'/, 'no-6');
});
