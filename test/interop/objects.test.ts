import { createCipheriv } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { CommandError, Done } from '../../lib/cli/errors.ts';
import { ObjectList } from '../../lib/cli/objects.ts';
import { Output } from '../../lib/cli/output.ts';
import { bundleProgram, type Program } from '../support/program.ts';
import { withTmpDir } from '../support/tmp.ts';
import { runProgram, tool } from '../support/tools.ts';
import { lines, words } from '../support/words.ts';

let program: Program;
test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program?.remove());

const KEY = Buffer.alloc(32, 'k');
const IV = Buffer.alloc(16, 'i');

/** `plain` as it is, encrypted by KEY: the padding is the caller's. */
function encrypted(plain: string): string {
  const cipher = createCipheriv('aes-256-cbc', KEY, IV).setAutoPadding(false);
  return Buffer.concat([cipher.update(plain, 'latin1'), cipher.final()]).toString('base64');
}

const MASTER = `--object secret,id=m,format=base64,data=${KEY.toString('base64')}`;
const WRAPPED = `secret,id=s,format=base64,keyid=m,iv=${IV.toString('base64')}`;

/** What follows `info`, before the image `x`. */
const LINES = lines(`
  --object secret,help
  --object secret,?
  --object tls-creds-x509,help
  --object tls-creds-psk,id=x,help
  --object authz-simple,help
  --object help=x
  --object secret,id=help
  --object secret,id=s,data=
  --object secret,id=s,data=QQ,format=base64
  --object secret,id=s,data=QQ==QQ==,format=base64
  --object secret,id=s,data====,format=base64
  --object 'secret,id=s,data=Q Q = =,format=base64'
  --object secret,id=s,file=DIRECTORY/binary
  --object secret,id=s,file=DIRECTORY/binary,format=base64
  --object secret,id=s,data=a,loaded=foo
  --object secret,id=s,data=a,loaded=off
  --object secret,id=s,data=a,format=
  --object secret,id=s,data.0=a
  --object secret,id=s,data=a,x.y=a
  --object secret,id=s.t-_9,data=a
  --object secret,id=s/t,data=a
  --object secret,id=,data=a
  --object secret,id=s,data=a,data=b
  --object secret,qom-type=foo,id=s,data=a
  --object id=s,data=a,qom-type=secret
  --object secret,id=m,data=a --object secret,id=m
  --object secret,id=m,data=a --object secret,id=m,loaded=on
  --object secret,id=m,data=a --object authz-list,id=m
  --object {"qom-type":"secret","id":"s","data":"abc"}
  --object {"qom-type":"secret","id":"s","data":12}
  --object {"qom-type":"secret","id":5,"data":"12"}
  --object {"qom-type":"secret","id":"s","data":"12","x":1}
  --object {"qom-type":"secret","id":"s","data":"12","loaded":true}
  --object {"qom-type":"secret","id":"s","data":"12","loaded":"on"}
  --object {"qom-type":"secret","id":"s","data":["a"]}
  --object {"qom-type":"secret","id":"s","data":null}
  --object {"qom-type":"secret","id":"s"}
  --object {"qom-type":["secret"],"id":"s"}
  --object {"id":"s"}
  --object []

  ${MASTER} --object ${WRAPPED},data=${encrypted('0123456789\x06\x06\x06\x06\x06\x06')}
  ${MASTER} --object ${WRAPPED},data=
  ${MASTER} --object ${WRAPPED},data=${encrypted('0123456789abcde\0')}
  ${MASTER} --object ${WRAPPED},data=${encrypted('0123456789abcde\x11')}
  ${MASTER} --object ${WRAPPED},data=${encrypted('\x10'.repeat(16))}
  ${MASTER} --object ${WRAPPED},data=AAAA
  ${MASTER} --object ${WRAPPED},data=!!
  ${MASTER} --object ${WRAPPED},format=raw,data=AAAA
  ${MASTER} --object ${WRAPPED},iv=AAAA,data=!!
  ${MASTER} --object ${WRAPPED},iv=!!,data=AAAA
  ${MASTER} --object ${WRAPPED},iv=,data=AAAA
  ${MASTER} --object ${WRAPPED},keyid=zz,data=AAAA
  ${MASTER} --object ${WRAPPED},keyid=s,data=AAAA
  ${MASTER} --object ${WRAPPED},keyid=,data=AAAA
  ${MASTER} --object ${WRAPPED},file=nope
  ${MASTER} --object ${WRAPPED},file=nope,keyid=zz
  ${MASTER} --object ${WRAPPED},file=DIRECTORY/x,data=AAAA
  ${MASTER} --object ${WRAPPED}
  ${MASTER} --object secret,id=s,data=AAAA,format=base64,keyid=m
  ${MASTER} --object secret,id=s,data=AAAA,format=base64,iv=AA==
  --object ${WRAPPED},data=AAAA ${MASTER}
  --object secret,id=m,data=abc --object ${WRAPPED},data=AAAA
  --object secret,id=m,data=abc --object secret,id=s,keyid=m,data=AAAA
  --object secret,id=m,data=${'k'.repeat(32)} --object ${WRAPPED},data=AAAA
  --object authz-list,id=m --object ${WRAPPED},data=AAAA

  --object tls-creds-x509,id=t
  --object tls-creds-x509,id=t,endpoint=foo
  --object tls-creds-x509,id=t,dir=nowhere
  --object tls-creds-x509,id=t,dir=nowhere,endpoint=server
  --object tls-creds-x509,id=t,dir=nowhere,sanity-check=foo
  --object tls-creds-x509,id=t,username=foo
  --object tls-creds-psk,id=t
  --object tls-creds-psk,id=t,dir=nowhere
  --object tls-creds-anon,id=t
  --object tls-creds-anon,id=t,dir=nowhere,endpoint=server
  --object tls-creds-anon,id=t,loaded=on
  --object tls-creds-anon,id=t,username=on
  --object {"qom-type":"tls-creds-anon","id":"x","verify-peer":"on"}
  --object tls-cipher-suites,id=c
  --object tls-cipher-suites,id=c,priority=@SYSTEM
  --object authz-simple,id=a
  --object authz-simple,id=a,identity=b
  --object authz-simple,id=a,identity=b,x=y
  --object authz-list,id=a
  --object authz-list,id=a,policy=foo
  --object authz-list,id=a,rules=x
  --object authz-list,id=a,rules.0.match=x
  --object authz-list,id=a,rules.0.match=x,rules.0.policy=allow,rules.0.format=exact
  --object authz-list,id=a,rules.1.match=x
  --object authz-list,id=a,rules.0.foo=x
  --object authz-list,id=a,rules.0.match=x,rules.0.policy=bar
  --object {"qom-type":"authz-list","id":"x","rules":[{"match":"x","policy":"allow"}]}
  --object {"qom-type":"authz-list","id":"x","rules":[{"match":"x","policy":"allow"},3]}
  --object {"qom-type":"authz-list","id":"x","rules":[{"match":"x"}]}
  --object authz-list-file,id=x
  --object iothread,id=x
`);

/** What the program says of `--object`s, without starting it, and its exit code. */
function said(definitions: readonly string[]): { stdout: string; stderr: string; status: number } {
  const heard = { stdout: '', stderr: '', status: 0 };
  const output = new Output('qemu-img');
  output.write = (text) => {
    heard.stdout += text;
  };
  const objects = new ObjectList();
  try {
    for (const definition of definitions) objects.add(definition, output);
  } catch (error) {
    if (error instanceof Done) return heard;
    if (!(error instanceof CommandError)) throw error;
    heard.stderr = `qemu-img: ${error.message}\n`;
    heard.status = error.exitCode;
  }
  return heard;
}

/** Compares with `qemu-img info`, whose report of the image `x` is not of interest. */
function sameObjects(t: ExecutionContext, args: readonly string[], cwd: string): void {
  const definitions = args.filter((arg) => arg !== '--object');
  const theirs = tool('qemu-img').run(['info', ...args, 'x'], { cwd });
  const about = args.join(' ');
  const ours = said(definitions);
  t.is(ours.stderr, theirs.stderr, about);
  t.is(ours.stdout, theirs.text.startsWith('image: ') ? '' : theirs.text, about);
  t.is(ours.status, theirs.status, about);
}

test("objects are made and refused in qemu-img's words", async (t) => {
  if (tool('qemu-img').missing(t)) return;
  await withTmpDir((cwd) => {
    writeFileSync(join(cwd, 'x'), Buffer.alloc(1024));
    writeFileSync(join(cwd, 'binary'), Buffer.from('ab\xff\0cd', 'latin1'));
    for (const line of LINES) sameObjects(t, words(line.replaceAll('DIRECTORY', cwd)), cwd);
  });
});

test('credentials in a directory are found', async (t) => {
  if (tool('qemu-img').missing(t) || tool('openssl').missing(t)) return;
  await withTmpDir((cwd) => {
    writeFileSync(join(cwd, 'x'), Buffer.alloc(1024));
    mkdirSync(join(cwd, 'tls'));
    const extensions = ['basicConstraints=critical,CA:TRUE', 'keyUsage=critical,keyCertSign'];
    const options = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-subj', '/CN=authority'];
    const files = ['-keyout', 'key.pem', '-out', 'tls/ca-cert.pem'];
    const made = extensions.flatMap((extension) => ['-addext', extension]);
    tool('openssl').expect(['req', '-x509', ...options, ...files, ...made], { cwd });
    for (const endpoint of ['', ',endpoint=server']) {
      sameObjects(t, ['--object', `tls-creds-x509,id=t,dir=${join(cwd, 'tls')}${endpoint}`], cwd);
    }
  });
});

test('no output shows a secret, whatever is wrong', async (t) => {
  await withTmpDir((cwd) => {
    writeFileSync(join(cwd, 'x'), Buffer.alloc(1024));
    writeFileSync(join(cwd, 'pass'), 'HuShHuSh');
    const wrapped = encrypted('HuShHuSh\x08\x08\x08\x08\x08\x08\x08\x08');
    const secrets = lines(`
      secret,id=s,data=HuShHuSh
      secret,id=s,data=HuShHuSh,format=base64
      secret,id=s,data=HuShHuSh!,format=base64
      secret,id=s,file=pass
      secret,id=s,file=pass,format=zz
      secret,id=s,data=HuShHuSh,foo=bar
      secret,id=s,data=HuShHuSh,keyid=zz
      secret,id=s/,data=HuShHuSh
      {"qom-type":"secret","id":"s","data":"HuShHuSh"}
      {"qom-type":"secret","id":"s","data":"HuShHuSh
      {"qom-type":"secret","id":"s","data":HuShHuSh}
      {"qom-type":"secret","id":"s","data":["HuShHuSh"]}
      {"qom-type":"secret","data":"HuShHuSh"}
      ${WRAPPED},data=${wrapped}
    `);
    const verbs = lines(`
      -T * info x
      info --output=json x
      info --image-opts driver=raw,key-secret=s,file.filename=x
      info --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=x
      create -f luks -o key-secret=s,iter-time=10 made.luks 1M
      create -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 made.qcow2 1M
      info --output=json made.luks
      -T * info made.luks
      convert -p -O raw --image-opts driver=luks,key-secret=s,file.filename=made.luks out.raw
      info --image-opts driver=luks,key-secret=s,key-secrets=s,file.filename=made.luks
      convert -O qcow2 x json:{"key-secret":"s"}
    `);
    const mute = (outputs: string, about: string) => {
      t.not(outputs, '', `${about} says nothing at all`);
      t.is(/hushhush|1edb078721e1/i.exec(outputs), null, `${about}: ${outputs}`);
    };
    for (const secret of secrets) {
      const { stdout, stderr, status } = said([...words(MASTER).slice(1), secret]);
      if (status !== 0) mute(stdout + stderr, secret);
    }
    for (const verb of verbs) {
      const [command, ...rest] = words(verb);
      const given = ['--object', 'secret,id=s,data=HuShHuSh'];
      const args = command === '-T' ? [command, rest[0], rest[1], ...given, rest[2]] : [command, ...given, ...rest];
      const { text, stderr } = program.run(args, { cwd });
      mute(text + stderr, args.join(' '));
    }
  });
});

test('a key that is no text is taken byte by byte from the command line', async (t) => {
  if (tool('qemu-img').missing(t)) return;
  await withTmpDir((cwd) => {
    writeFileSync(join(cwd, 'x'), Buffer.alloc(1024));
    // 32 bytes, and 32 bytes of which some are the character that stands for what is no text.
    for (const bytes of ['\\377\\376', '\\357\\277\\275', 'ab\\377\\357\\277\\275']) {
      const script = [
        `bytes=$(printf '${bytes}')`,
        `data=$bytes$(head -c $((32 - $(printf '${bytes}' | wc -c))) /dev/zero | tr '\\0' k)`,
        `exec "$@" info --object secret,id=m,data=$data --object ${WRAPPED},data= x`,
      ];
      const run = (...command: string[]) => runProgram('/bin/sh', ['-c', script.join('\n'), 'sh', ...command], { cwd });
      t.is(run('qemu-img').stderr, '');
      t.is(run(process.execPath, program.link('qemu-img')).stderr, '');
    }
  });
});

test("a wrapped secret is the same as qemu-img's, in both directions", async (t) => {
  if (tool('qemu-img').missing(t)) return;
  await withTmpDir((cwd) => {
    const passphrase = 'seventeen letters';
    const wrapped = encrypted(passphrase + '\x0f'.repeat(15));
    const secret = ['--object', `${WRAPPED},data=${wrapped}`];
    const plain = ['--object', `secret,id=s,data=${passphrase}`];
    const create = ['create', '-q', '-f', 'luks', ...words(MASTER), ...secret, '-o', 'key-secret=s,iter-time=10'];
    const image = (name: string) => ['--image-opts', `driver=luks,key-secret=s,file.filename=${name}`];
    const ours = program.run([...create, 'ours', '1M'], { cwd });
    t.is(ours.status, 0, ours.stderr);
    tool('qemu-img').expect(['convert', ...plain, ...image('ours'), '-O', 'raw', 'raw'], { cwd });
    tool('qemu-img').expect([...create, 'theirs', '1M'], { cwd });
    for (const given of [plain, [...words(MASTER), ...secret]]) {
      const read = program.run(['convert', ...given, ...image('theirs'), '-O', 'raw', 'raw'], { cwd });
      t.is(read.status, 0, read.stderr);
    }
  });
});

test('a secret comes through a pipe, and out of a file without an end an error', async (t) => {
  await withTmpDir((cwd) => {
    writeFileSync(join(cwd, 'x'), Buffer.alloc(1024));
    const script = `printf '${'k'.repeat(32)}' | "$@" info --object secret,id=m,file=/dev/stdin --object ${WRAPPED},data= x`;
    const args = ['-c', script, 'sh', process.execPath, program.link('qemu-img')];
    t.is(runProgram('/bin/sh', args, { cwd }).stderr, '');
  });
  t.regex(said(['secret,id=s,file=/dev/zero']).stderr, /too long for a secret/);
});
