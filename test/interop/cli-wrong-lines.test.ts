import test from 'ava';
import { bundleProgram, type Program } from '../support/program.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { lines, words } from '../support/words.ts';

/** Command lines that fail (or print help) before any image is opened. */
const LINES = lines(`
  ''
  foo
  --foo
  -x
  -T
  --trace
  --tr
  info
  info -Tq
  info a b
  info a -Tq
  info -f
  info -Uf
  info --output
  info --output=
  info --output=xx a
  info --output=xx a b
  info --o json a
  info --f raw a
  info --foo x
  info --foo=x x
  info --image-opts=x
  info --back
  info ---x
  info - -Z
  info -UZU
  info -- -x -y
  info --object foo x
  info --object secret x
  info --object secret,id=a x
  info --object foo,id=1 x
  info --object secret,data=x x
  info --object id=a x
  info --object secret,id=a,file=/nonexistent x
  info --object secret,id=a,file=/ x
  info --object secret,id=a,data=x,foo=y x
  info --object secret,id=a,data=x,format=zz x
  info --object secret,id=a,data=!!,format=base64 x
  info --object secret,id=1a,data=x x
  info --object secret,id=a,data=x,file=y x
  info --object '' x
  info --object , x
  info --object secret,id=a,,data=x x
  info --object secret,id=a,data x
  info --object secret,id=a,keyid=b,data=x x
  info --object secret,id=a,data=x,loaded=on x
  info --object iothread,id=x x
  info --object {} x
  info --object {"qom-type":"foo"} x
  info --object secret,id=a,data=x --object secret,id=a,data=x x
  info --object secret,id=a,data=x -Z
  info -Z --object foo
  map
  map a b
  map -Tq
  map --output=z a
  map --output=z a b
  map --start-offset=-1 a
  map --start-offset x
  map --st x
  map --max-length=9E a
  map --max-length=9.5E a
  map --max-length= a
  map -s 1 -l 1.5 a
  map -s 0x1p3 a
  create
  create -f
  create -fr -Z
  create x abc
  create x -- -1M
  create x 9E
  create x 99999999999999999999
  create x 1kk
  create x ''
  create x 1.5
  create x 1e3
  create x .5k
  create x '1 k'
  create x 0x
  create x 0b1
  create x inf
  create x 1KiB
  create x 1,5
  create x 0.5
  create x 8388608T
  create x 1M 2M
  create x zz 2M
  create -o , x 1M
  create -o '' x 1M
  create -o a=b, x 1M
  create --image-opts x
  create --output=z a
  create --object foo x
  create -p x 1M
  convert
  convert a
  convert -Y a b
  convert -s x a b
  convert -S 100 a b
  convert -S abc a b
  convert -S -1 a b
  convert -S 512G a b
  convert -m 0 a b
  convert -m 17 a b
  convert -m x a b
  convert -m -1 a b
  convert -r x a b
  convert -r -1 a b
  convert -n -o x=y a b
  convert --target-is-zero a b
  convert --target-is a b
  convert --target
  convert --target-i
  convert --skip-broken-bitmaps a b
  convert --target-image-opts a b
  convert -C -S 4k a b
  convert -C -S 0 a b
  convert -C -c a b
  convert -C --salvage a b
  convert -l snapshot.foo=1 a b
  convert -l snapshot.id,snapshot.foo=1 a b
  convert -o , a b
  convert -o '' a b
  convert --force-share=3 a b
  dd
  dd if=a
  dd of=a
  dd -n if=a of=b
  dd bs=0 if=a of=b
  dd bs=-1 if=a of=b
  dd bs=abc if=a of=b
  dd bs=1z if=a of=b
  dd bs= if=a of=b
  dd bs=2G if=a of=b
  dd bs=1c if=a of=b
  dd bs=2x512 if=a of=b
  dd bs=1kB if=a of=b
  dd count=x if=a of=b
  dd count=-1 if=a of=b
  dd count=9E if=a of=b
  dd skip=x if=a of=b
  dd skip=9E if=a of=b
  dd seek=1 if=a of=b
  dd foo if=a of=b
  dd foo=bar if=a of=b
  dd =x if=a of=b
  dd conv=sparse if=a of=b
  compare
  compare a
  compare a b c
  compare -T bad a b
  compare --object foo a b
  compare -Y a b
  compare --image-opts -f raw driver=raw,file.filename=a driver=raw,file.filename=b
  compare --output=z a b
  measure
  measure a b
  measure --size 1G a
  measure -f raw --size 1G
  measure -l s1
  measure --image
  measure --size x
  measure --size -1
  measure --size 1.5
  measure --size 9E
  measure --output=z a b
  measure -O qcow2 -o , --size 1G
  measure -l snapshot.zz=1 a
  measure -o help -O qcow2
`);

/** Here the oracle lets getopt complain, prints its help and succeeds: the help is not compared. */
const MEASURE_LINES = lines(`
  measure --bar
  measure -Y
  measure -f
  measure --image-opts=x
  measure --object
  measure -fr -Z
  measure ---x
  measure --force-share=3
  measure --outp
  measure --o
  measure -Tqfz
`);

const HELP_LINES = lines(`
  -h
  --help
  --he
  info -h
  info --output=json --help x
  create -h
  convert --h
  dd -h
  compare -qh
  map -h a b c
  measure -h
`);

let program: Program;
test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program?.remove());

for (const line of LINES) {
  test.serial(`fails like qemu-img: ${line}`, (t) => {
    const oracle = tool('qemu-img');
    if (oracle.missing(t)) return;
    return withTmpDir((cwd) => {
      const expected = oracle.run(words(line), { cwd });
      const got = program.run(words(line), { cwd });
      t.is(got.stderr, expected.stderr);
      t.is(got.text, expected.text);
      t.is(got.status, expected.status);
      t.not(got.status, 0);
    });
  });
}

for (const line of MEASURE_LINES) {
  test.serial(`complains like getopt and prints help: ${line}`, (t) => {
    const oracle = tool('qemu-img');
    if (oracle.missing(t)) return;
    const expected = oracle.run(words(line));
    const got = program.run(words(line));
    t.is(got.stderr, expected.stderr);
    t.is(got.status, expected.status);
    t.regex(got.text, /^usage: qemu-img /m);
  });
}

for (const line of HELP_LINES) {
  test.serial(`prints help: ${line}`, (t) => {
    const got = program.run(words(line));
    t.is(got.status, 0);
    t.is(got.stderr, '');
    t.regex(got.text, /^usage: qemu-img /m);
  });
}
