import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { luks2Image, PASSPHRASE, PAYLOAD } from '../support/luks2-images.ts';
import { Random } from '../support/model.ts';
import { bundleProgram, type Program } from '../support/program.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';

let program: Program;
test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program?.remove());

const SECRET = ['--object', `secret,id=s,data=${PASSPHRASE}`];
const IMAGE = 'driver=luks,key-secret=s,file.filename=luks';
const DISK = new Random(9).bytes(1024 * 1024);

test('a container of cryptsetup with Argon2 is described, and read', async (t) => {
  const cryptsetup = tool('cryptsetup');
  if (cryptsetup.missing(t)) return;
  await withTmpDir((cwd) => {
    writeFileSync(join(cwd, 'luks'), Buffer.alloc(17 * 1024 * 1024));
    const cost = ['--pbkdf-memory=1024', '--pbkdf-parallel=2', '--pbkdf-force-iterations=4'];
    cryptsetup.expect(['luksFormat', '-q', '--type=luks2', ...cost, 'luks', '-'], { cwd, input: PASSPHRASE });
    const uuid = cryptsetup.expect(['luksUUID', 'luks'], { cwd }).trim();
    const told = JSON.parse(program.run(['info', '--output=json', 'luks'], { cwd }).text);
    t.is(told.format, 'luks');
    t.is(told['virtual-size'], 1024 * 1024);
    const { data } = told['format-specific'];
    t.is(data.uuid, uuid);
    t.is(data.version, 2);
    t.is(data['payload-offset'], 16 * 1024 * 1024);
    t.deepEqual(data.slots, [
      {
        ...{ active: true, kdf: 'argon2id', iters: 4, 'memory-kib': 1024, threads: 2 },
        ...{ stripes: 4000, 'key-offset': 32768 },
      },
    ]);
    const human = program.run(['info', 'luks'], { cwd }).text;
    t.regex(human, /^ {4}version: 2$/m);
    t.regex(human, /^ {12}kdf: argon2id$/m);
    const read = program.run(['convert', ...SECRET, '--image-opts', IMAGE, '-O', 'raw', 'raw'], { cwd });
    t.is(read.status, 0, read.stderr);
    t.is(readFileSync(join(cwd, 'raw')).length, 1024 * 1024);
  });
});

test("the disk of a container can be written to; its header can't be changed", async (t) => {
  await withTmpDir((cwd) => {
    const image = luks2Image(Buffer.alloc(DISK.length), { sectorSize: 4096 });
    writeFileSync(join(cwd, 'luks'), image);
    writeFileSync(join(cwd, 'raw'), DISK);
    const run = (...args: string[]) => program.run(args, { cwd });
    const write = run('convert', '-n', ...SECRET, '-f', 'raw', '--target-image-opts', 'raw', IMAGE);
    t.is(write.status, 0, write.stderr);
    const same = run('compare', ...SECRET, '--image-opts', 'driver=raw,file.filename=raw', IMAGE);
    t.is(same.status, 0, same.text + same.stderr);
    t.true(readFileSync(join(cwd, 'luks')).subarray(0, PAYLOAD).equals(image.subarray(0, PAYLOAD)));
    const amend = run('amend', ...SECRET, '--image-opts', IMAGE, '-o', 'state=inactive,keyslot=0');
    t.is(amend.status, 1);
    t.regex(amend.stderr, /LUKS version 2 is not supported/);
    const grow = run('resize', ...SECRET, '--image-opts', IMAGE, '+1M');
    t.is(grow.status, 0, grow.stderr);
    t.true(readFileSync(join(cwd, 'luks')).subarray(0, PAYLOAD).equals(image.subarray(0, PAYLOAD)));
    t.is(JSON.parse(run('info', '--output=json', 'luks').text)['virtual-size'], 2 * 1024 * 1024);
  });
});

test('a wrong passphrase lets nothing be written', async (t) => {
  await withTmpDir((cwd) => {
    const image = luks2Image(DISK);
    writeFileSync(join(cwd, 'luks'), image);
    writeFileSync(join(cwd, 'raw'), Buffer.alloc(DISK.length));
    const wrong = ['--object', 'secret,id=s,data=wrong'];
    const args = ['convert', '-n', ...wrong, '-f', 'raw', '--target-image-opts', 'raw', IMAGE];
    const { status, stderr } = program.run(args, { cwd });
    t.is(status, 1);
    t.regex(stderr, /Invalid password, cannot unlock any keyslot/);
    t.true(readFileSync(join(cwd, 'luks')).equals(image));
  });
});
