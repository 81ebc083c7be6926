import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { bundleProgram, type Program } from '../support/program.ts';
import { withTmpDir } from '../support/tmp.ts';
import { type ToolResult, tool } from '../support/tools.ts';
import { lines, words } from '../support/words.ts';

const qemuImg = tool('qemu-img');
const OBJECTS = Object.entries({ s0: 'abc', s1: 'def', s2: 'ghi', none: '' }).flatMap(([id, data]) => [
  '--object',
  `secret,id=${id},data=${data}`,
]);

let program: Program;
test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program?.remove());

/** `{}` after the verb stands for the secrets. None of these lines makes anything. */
const CREATING = lines(`
  create -f luks x 1M
  create -f luks -o key-secret=nope x 1M
  create -f luks -o hash-alg=foo,key-secret=nope x 1M
  create {} -f luks -o key-secret=s0 x
  create {} -f luks -o key-secret=s0,cipher-alg=foo x 1M
  create {} -f luks -o key-secret=s0,cipher-alg=des x 1M
  create {} -f luks -o key-secret=s0,cipher-alg=3des,cipher-mode=foo x 1M
  create {} -f luks -o key-secret=s0,cipher-mode=foo x 1M
  create {} -f luks -o key-secret=s0,ivgen-alg=foo x 1M
  create {} -f luks -o key-secret=s0,iter-time=foo x 1M
  create {} -f luks -o key-secret=s0,cipher-alg=cast5-128 x 1M
  create {} -f luks -o key-secret=s0,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha512 x 1M
  create {} -f luks -o key-secret=s0,cipher-alg=serpent-256,ivgen-alg=essiv,ivgen-hash-alg=ripemd160 x 1M
  create {} -f luks -o key-secret=s0,cipher-alg=cast5-128,cipher-mode=cbc,ivgen-alg=essiv x 1M
  create {} -f luks -o key-secret=s0,preallocation=foo,cipher-alg=cast5-128 x 1M
  create {} -f luks -o key-secret=s0,detached-header=on x 1M
  create {} -f luks -o key-secret=s0 -b plain.raw -F raw x
  create {} -f luks -o key-secret=s0,backing_file=plain.raw x 1M
  convert {} -c -f raw -O luks -o key-secret=s0 plain.raw x
  convert -f raw -O luks plain.raw x
  dd -f raw -O luks if=plain.raw of=x
  measure -O luks --size 1M
  measure {} -O luks -o key-secret=s0,iter-time=10 --size 1234567
  measure {} -O luks -o key-secret=s0,cipher-alg=aes-128,cipher-mode=cbc,iter-time=10 --size 0
`);

const IMAGE = 'driver=luks,file.filename=image.luks';
const OPENING = lines(`
  info image.luks
  info --output=json image.luks
  info --image-opts ${IMAGE},key-secret=nope
  info --image-opts ${IMAGE},foo=1
  check image.luks
  check {} --image-opts ${IMAGE},key-secret=s0
  map image.luks
  map --output=json {} --image-opts ${IMAGE},key-secret=s0
  compare image.luks image.luks
  convert image.luks -O raw x
  convert --image-opts ${IMAGE},key-secret=nope -O raw x
  convert {} --image-opts ${IMAGE},key-secret=s1 -O raw x
  convert {} -n -f raw --target-image-opts plain.raw ${IMAGE},key-secret=s2
  measure -O raw {} --image-opts ${IMAGE},key-secret=s0
  measure -O qcow2 {} --image-opts ${IMAGE},key-secret=s0
  snapshot -c x {} --image-opts ${IMAGE},key-secret=s0
  rebase {} -u -b plain.raw -F raw --image-opts ${IMAGE},key-secret=s0
  commit {} --image-opts ${IMAGE},key-secret=s0
  resize image.luks 2M
  resize {} --image-opts ${IMAGE},key-secret=s0 1k
  resize {} --preallocation=metadata --image-opts ${IMAGE},key-secret=s0 2M
`);

const AMENDING = lines(`
  amend -f luks -o help
  amend -o state=active,new-secret=s1 image.luks
  amend {} -o state=active,new-secret=s1,keyslot=8 @
  amend {} -o state=active,new-secret=s1,keyslot=0 @
  amend {} -o state=active,new-secret=s1,old-secret=s0 @
  amend {} -o state=active,iter-time=15 @
  amend {} -o state=active,new-secret=nope @
  amend {} -o new-secret=s1 @
  amend {} -o state=foo @
  amend {} -o state=active,new-secret=s1,keyslot=foo @
  amend {} -o state=inactive @
  amend {} -o state=inactive,new-secret=s1 @
  amend {} -o state=inactive,iter-time=10 @
  amend {} -o state=inactive,keyslot=7 @
  amend {} -o state=inactive,keyslot=9 @
  amend {} -o state=inactive,keyslot=9,old-secret=nope @
  amend {} -o state=inactive,keyslot=0,old-secret=s1 @
  amend {} -o state=inactive,keyslot=3,old-secret=s0 @
  amend {} -o state=inactive,old-secret=s2 @
  amend {} -o state=inactive,keyslot=0 @
  amend {} -o state=inactive,old-secret=s0 @
  amend {} -o foo=1 @
  amend {} -o key-secret=s0 @
`);

function told({ status, text, stderr }: ToolResult) {
  return { status, text, stderr };
}

function wordsOf(line: string): string[] {
  const image = ['--image-opts', `${IMAGE},key-secret=s0`];
  return words(line).flatMap((word) => (word === '{}' ? OBJECTS : word === '@' ? image : word));
}

/** A test ends from time to time, also on a machine that has much else to do. */
const AT_ONCE = 10;

for (const [what, all] of Object.entries({ creating: CREATING, opening: OPENING, amending: AMENDING })) {
  for (let first = 0; first < all.length; first += AT_ONCE) {
    test(`${what} a container: refusals and answers are in qemu-img's words (from line ${first + 1})`, async (t) => {
      if (qemuImg.missing(t)) return;
      await withTmpDir((cwd) => sameWords(t, all.slice(first, first + AT_ONCE), cwd));
    });
  }
}

/** Nothing is made, and the container stays as it was. */
function sameWords(t: ExecutionContext, list: readonly string[], cwd: string): void {
  const image = join(cwd, 'image.luks');
  writeFileSync(join(cwd, 'plain.raw'), Buffer.alloc(1024 * 1024, 7));
  const made = 'key-secret=s0,iter-time=10,cipher-alg=aes-128';
  qemuImg.expect(['create', '-q', ...OBJECTS, '-f', 'luks', '-o', made, image, '1M']);
  const before = readFileSync(image);
  for (const line of list) {
    const args = wordsOf(line);
    const ours = told(program.run(args, { cwd }));
    t.deepEqual(ours, told(qemuImg.run(args, { cwd })), line);
    t.false(existsSync(join(cwd, 'x')), line);
  }
  t.true(readFileSync(image).equals(before));
}

test('what makes qemu-img abort is refused', async (t) => {
  await withTmpDir((cwd) => {
    for (const cipher of ['aes-192', 'serpent-192']) {
      for (const mode of ['cbc', 'ecb']) {
        const options = `key-secret=s0,cipher-alg=${cipher},cipher-mode=${mode}`;
        const { status, stderr } = program.run(['create', ...OBJECTS, '-f', 'luks', '-o', options, 'x', '1M'], { cwd });
        t.is(status, 1);
        t.is(stderr, `qemu-img: x: Algorithm '${cipher}' is not supported in mode '${mode}'\n`);
        t.false(existsSync(join(cwd, 'x')));
      }
    }
  });
});
