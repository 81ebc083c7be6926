import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { luks2Image } from '../support/luks2-images.ts';
import { Random } from '../support/model.ts';
import { bundleProgram, type Program } from '../support/program.ts';
import { shellIn } from '../support/shell.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';

let program: Program;
test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program?.remove());

const SECRET = "--object 'secret,id=s,data=open sesame'";
const OPTIONS = '-o key-secret=s,iter-time=10';
const IMAGE = '--image-opts driver=luks,key-secret=s,file.filename';
const CLEAN = [0, 0, 0];

function disk(): Buffer {
  const bytes = new Random(5).bytes(3 * 1024 * 1024);
  // Zeros too long to be looked over, inside and at the end.
  bytes.fill(0, 400_000, 1_700_000);
  bytes.fill(0, 2_900_000);
  return bytes;
}

test('a raw disk of unknown length becomes a container in a pipe, which qemu-img reads', async (t) => {
  if (tool('qemu-img').missing(t)) return;
  await withTmpDir((directory) => {
    const bash = shellIn(directory, program);
    writeFileSync(join(directory, 'raw'), disk());
    const made = bash(`cat raw | $IMGPIPE convert ${SECRET} -f raw -O luks ${OPTIONS} - - | cat > luks`);
    t.deepEqual(made.statuses, CLEAN, made.stderr);
    const read = bash(`qemu-img convert ${SECRET} ${IMAGE}=luks -O raw back`);
    t.deepEqual(read.statuses, [0], read.stderr);
    t.true(readFileSync(join(directory, 'back')).equals(disk()));
  });
});

test('a disk with holes becomes a container in a pipe: its zeros are encrypted too', async (t) => {
  if (tool('qemu-img').missing(t)) return;
  await withTmpDir((directory) => {
    const bash = shellIn(directory, program);
    writeFileSync(join(directory, 'raw'), disk());
    const made = bash(`qemu-img convert -O qcow2 raw qcow2 && qemu-img resize -q qcow2 5M &&
      $IMGPIPE convert ${SECRET} -O luks ${OPTIONS} qcow2 - | cat > luks`);
    t.deepEqual(made.statuses, [0, 0], made.stderr);
    const read = bash(`qemu-img convert ${SECRET} ${IMAGE}=luks -O raw back`);
    t.deepEqual(read.statuses, [0], read.stderr);
    t.true(readFileSync(join(directory, 'back')).equals(Buffer.concat([disk(), Buffer.alloc(2 * 1024 * 1024)])));
    const luks = readFileSync(join(directory, 'luks'));
    const payload = luks.length - 5 * 1024 * 1024;
    t.false(luks.subarray(payload).includes(Buffer.alloc(64)));
  });
});

test('a container in a pipe is decrypted on the way, without a temporary file', async (t) => {
  if (tool('qemu-img').missing(t)) return;
  await withTmpDir((directory) => {
    const bash = shellIn(directory, program, { TMPDIR: '/nonexistent' });
    writeFileSync(join(directory, 'raw'), disk());
    const made = bash(`qemu-img convert ${SECRET} -f raw -O luks ${OPTIONS} raw luks`);
    t.deepEqual(made.statuses, [0], made.stderr);
    const raw = bash(`cat luks | $IMGPIPE convert ${SECRET} ${IMAGE}=- -O raw - | cat > back`);
    t.deepEqual(raw.statuses, CLEAN, raw.stderr);
    t.true(readFileSync(join(directory, 'back')).equals(disk()));
    const qcow2 = bash(`cat luks | $IMGPIPE convert ${SECRET} ${IMAGE}=- -O qcow2 out.qcow2
      qemu-img compare -f raw -F qcow2 raw out.qcow2`);
    t.deepEqual(qcow2.statuses, [0], qcow2.stderr);
  });
});

test('LUKS2 containers come through pipes too', async (t) => {
  await withTmpDir((directory) => {
    const bash = shellIn(directory, program, { TMPDIR: '/nonexistent' });
    writeFileSync(join(directory, 'luks'), luks2Image(disk(), { sectorSize: 4096 }));
    const read = bash(`cat luks | $IMGPIPE convert ${SECRET} ${IMAGE}=- -O raw - | cat > back`);
    t.deepEqual(read.statuses, CLEAN, read.stderr);
    t.true(readFileSync(join(directory, 'back')).equals(disk()));
  });
});

test('what can not be decrypted or encrypted is one error, and no byte comes out', async (t) => {
  await withTmpDir((directory) => {
    const bash = shellIn(directory, program);
    writeFileSync(join(directory, 'raw'), disk());
    writeFileSync(join(directory, 'luks'), luks2Image(disk()));
    const wrong = '--object secret,id=s,data=wrong';
    const lines: Record<string, RegExp> = {
      [`cat luks | $IMGPIPE convert ${wrong} ${IMAGE}=- -O raw -`]: /Invalid password, cannot unlock any keyslot/,
      [`cat luks | $IMGPIPE convert -O raw - -`]: /'key-secret' is required/,
      [`cat luks | $IMGPIPE convert ${SECRET} ${IMAGE.replace('=s', '=q')}=- -O raw -`]: /No secret with id 'q'/,
      [`head -c 100000 luks | $IMGPIPE convert ${SECRET} ${IMAGE}=- -O raw -`]: /ends before|cut off/,
      [`cat raw | $IMGPIPE convert -f raw -O luks - -`]: /'key-secret' is required/,
      [`cat raw | $IMGPIPE convert ${SECRET} -f raw -O luks ${OPTIONS},cipher-alg=x - -`]: /does not accept value 'x'/,
      [`cat raw | $IMGPIPE convert ${SECRET} -f raw -O luks ${OPTIONS},preallocation=full - -`]: /preallocat/,
    };
    for (const [line, message] of Object.entries(lines)) {
      const { statuses, stdout, stderr } = bash(`${line} | cat`);
      t.is(statuses[1], 1, line);
      t.regex(stderr, message, line);
      t.is(stderr.trim().split('\n').length, 1, `${line}: ${stderr}`);
      t.is(stdout.length, 0, line);
    }
  });
});

test('a reader that leaves ends both directions quietly', async (t) => {
  await withTmpDir((directory) => {
    const bash = shellIn(directory, program);
    const endless = `yes | head -c 200M | $IMGPIPE convert ${SECRET} -f raw -O luks ${OPTIONS} - -`;
    const encrypting = bash(`${endless} | head -c 5M > /dev/null`);
    t.is(encrypting.statuses[2], 141, encrypting.stderr);
    t.is(encrypting.stderr, '');
    const decrypting = bash(`${endless} | $IMGPIPE convert ${SECRET} ${IMAGE}=- -O raw - | head -c 5M > /dev/null`);
    t.deepEqual(decrypting.statuses.slice(2), [141, 141, 0], decrypting.stderr);
    t.is(decrypting.stderr, '');
  });
});
