import { existsSync, readdirSync } from 'node:fs';
import test, { type ExecutionContext } from 'ava';
import { createImage } from '../../lib/formats/create.ts';
import { bundleProgram, type Program } from '../support/program.ts';
import { withTmpDir } from '../support/tmp.ts';
import { type ToolResult, tool } from '../support/tools.ts';
import { lines, words } from '../support/words.ts';

const qemuImg = tool('qemu-img');
/** What is not UTF-8 is no passphrase. */
const SECRETS = { s: 'data=correct horse', w: 'data=wrong', b: 'data=/+8=,format=base64' };
const OBJECTS = Object.entries(SECRETS).flatMap(([id, data]) => ['--object', `secret,id=${id},${data}`]);
const secrets = new Map([['s', 'correct horse']]);

/** Lines that make nothing, or what the next line makes again. `{}` after the verb stands for the secrets. */
const CREATING = lines(`
  create {} -f qcow2 -o encryption=on x 1M
  create {} -f qcow2 -o encryption=off,encrypt.key-secret=s x 1M
  create {} -f qcow2 -o encryption=on,encrypt.format=aes,encrypt.key-secret=s x 1M
  create {} -f qcow2 -o encryption=off,encrypt.format=aes,encrypt.key-secret=s x 1M
  create {} -f qcow2 -o encrypt.format=luks x 1M
  create {} -f qcow2 -o encrypt.format=aes x 1M
  create {} -f qcow2 -o encrypt.format=foo,encrypt.key-secret=s x 1M
  create {} -f qcow2 -o encrypt.key-secret=s x 1M
  create {} -f qcow2 -o encrypt.format=aes,encrypt.key-secret=s,encrypt.cipher-alg=aes-256 x 1M
  create {} -f qcow2 -o encrypt.format=aes,encrypt.key-secret=nope x 1M
  create {} -f qcow2 -o encrypt.format=luks,encrypt.key-secret=nope x 1M
  create {} -f qcow2 -o encrypt.format=luks,encrypt.key-secret=b x 1M
  create {} -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=foo x 1M
  create {} -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=3des x 1M
  create {} -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-mode=foo x 1M
  create {} -f qcow2 -o compat=foo,encrypt.format=foo x 1M
  create {} -f qcow2 -o encrypt.format=foo,preallocation=foo x 1M
  create {} -f qcow2 -o encrypt.format=luks,encrypt.key-secret=nope,cluster_size=3 x 1M
  create {} -f qcow2 -o encrypt.format=aes,encrypt.key-secret=s -b luks.qcow2 -F qcow2 x
  create {} -f qcow -o encryption=on,encrypt.key-secret=s x 1M
  create {} -f qcow -o encryption=on x 1M
  create {} -f qcow -o encryption=off,encrypt.key-secret=s x 1M
  create {} -f qcow -o encrypt.format=luks,encrypt.key-secret=s x 1M
  create {} -f qcow -o encrypt.format=foo,encrypt.key-secret=s x 1M
  create {} -f qcow -o encrypt.key-secret=s x 1M
  convert {} -c -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s plain.qcow2 x
  convert {} -c -O qcow -o encryption=on,encrypt.key-secret=s plain.qcow2 x
  convert {} -O qcow2 -o encrypt.format=luks plain.qcow2 x
  convert {} -O qcow2 -o encrypt.format=luks,encrypt.key-secret=nope plain.qcow2 x
  measure -O qcow2 --size 1G -o encrypt.format=luks
  measure -O qcow2 --size 1G -o encrypt.format=luks,encrypt.key-secret=s
  measure {} -O qcow2 --size 1G -o encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=foo
  measure -O qcow2 --size 1G -o encrypt.format=aes
  measure -O qcow2 --size 1G -o encryption=on
`);

const LUKS = 'driver=qcow2,file.filename=luks.qcow2';
const AES = 'driver=qcow2,file.filename=aes.qcow2';
const PLAIN = 'driver=qcow2,file.filename=plain.qcow2';
const QCOW = 'driver=qcow,file.filename=aes.qcow';
const OPENING = lines(`
  info luks.qcow2
  info --output=json luks.qcow2
  info aes.qcow2
  info aes.qcow
  check luks.qcow2
  check aes.qcow2
  check aes.qcow
  map aes.qcow
  snapshot -l luks.qcow2
  resize luks.qcow2 20M
  compare luks.qcow2 luks.qcow2
  convert luks.qcow2 -O raw x
  check {} --image-opts ${LUKS},encrypt.key-secret=s
  check {} --image-opts ${LUKS},encrypt.key-secret=s,encrypt.format=aes
  check {} --image-opts ${LUKS},encrypt.format=luks
  check {} --image-opts ${LUKS},encrypt.key-secret=w
  check {} --image-opts ${LUKS},encrypt.key-secret=b
  check {} --image-opts ${LUKS},encrypt.key-secret=nope
  check {} --image-opts ${LUKS},encrypt.key-secret=w,encrypt.foo=bar
  check {} --image-opts ${LUKS},encrypt=s
  check {} --image-opts ${AES},encrypt.key-secret=w
  check {} --image-opts ${PLAIN},encrypt.key-secret=s
  check {} --image-opts ${PLAIN},encrypt.format=luks
  check {} --image-opts ${PLAIN},encrypt.foo=s
  info {} --image-opts ${LUKS},encrypt.key-secret=w,encrypt.format=aes
  info {} --image-opts ${LUKS},encrypt.key-secret=nope
  info {} --image-opts ${AES},encrypt.foo=x
  map {} --output=json --image-opts ${LUKS},encrypt.key-secret=s
  map {} --image-opts ${LUKS},encrypt.key-secret=s
  map {} --image-opts ${QCOW},encrypt.key-secret=s
  map {} --image-opts ${QCOW},encrypt.key-secret=s,encrypt.format=luks
  map {} --image-opts ${QCOW},encrypt.key-secret=s,encrypt.foo=luks
  amend {} -o encrypt.state=active,encrypt.new-secret=s --image-opts ${AES},encrypt.key-secret=s
  amend {} -o encrypt.state=active,encrypt.new-secret=s plain.qcow2
  amend {} -o encrypt.format=luks plain.qcow2
  amend {} -o encrypt.state=foo --image-opts ${LUKS},encrypt.key-secret=s
  amend {} -o encrypt.state=inactive --image-opts ${LUKS},encrypt.key-secret=s
  amend {} -o encrypt.state=inactive,encrypt.old-secret=s --image-opts ${LUKS},encrypt.key-secret=s
`);

let program: Program;
test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program?.remove());

function same(t: ExecutionContext, line: string, cwd: string): void {
  const args = words(line).flatMap((word) => (word === '{}' ? OBJECTS : [word]));
  const theirs = qemuImg.run(args, { cwd });
  const made = existsSync(`${cwd}/x`);
  const ours = program.run(args, { cwd });
  const said = ({ stderr, text, status }: ToolResult, made: boolean) => ({ line, stderr, text, status, made });
  t.deepEqual(said(ours, existsSync(`${cwd}/x`)), said(theirs, made));
}

/** A test ends from time to time, also on a machine that has much else to do. */
const AT_ONCE = 12;

for (const [what, all] of [
  ['what no image can be made with', CREATING],
  ['opening without the key, with a wrong one, or against the header', OPENING],
] as const) {
  for (let first = 0; first < all.length; first += AT_ONCE) {
    test.serial(`${what} is refused in qemu-img’s words (from line ${first + 1})`, async (t) => {
      if (qemuImg.missing(t)) return;
      await withTmpDir(async (directory) => {
        await makeImages(directory);
        const files = readdirSync(directory);
        for (const line of all.slice(first, first + AT_ONCE)) same(t, line, directory);
        t.deepEqual(
          readdirSync(directory).filter((name) => name !== 'x'),
          files,
        );
      });
    });
  }
}

async function makeImages(directory: string): Promise<void> {
  const common = { size: 1024 * 1024, secrets };
  const images: { filename: string; format: string; options: Record<string, string> }[] = [
    { filename: 'plain.qcow2', format: 'qcow2', options: {} },
    { filename: 'luks.qcow2', format: 'qcow2', options: { 'encrypt.format': 'luks', 'encrypt.iter-time': '10' } },
    { filename: 'aes.qcow2', format: 'qcow2', options: { 'encrypt.format': 'aes' } },
    { filename: 'aes.qcow', format: 'qcow', options: { 'encrypt.format': 'aes' } },
  ];
  for (const { filename, format, options: given } of images) {
    const options: Record<string, string> = { ...given };
    if (options['encrypt.format'] !== undefined) options['encrypt.key-secret'] = 's';
    const place = { filename: `${directory}/${filename}`, format };
    const target = await createImage({ ...common, ...place, options });
    await target.write(0, Buffer.alloc(100_000, 1));
    await target.close();
  }
}
