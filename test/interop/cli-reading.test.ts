import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { makeCliImages } from '../support/cli-images.ts';
import { bundleProgram, type Program } from '../support/program.ts';
import { tool } from '../support/tools.ts';
import { lines, words } from '../support/words.ts';

/** Command lines that change nothing: both programs run them on the same files. */
const LINES = lines(`
  info hole.raw
  info --output=json hole.raw
  info -f raw a.qcow2
  info odd.raw
  info --output=json odd.raw
  info empty.raw
  info a.qcow2
  info --output=json a.qcow2
  info --out json -f qcow2 a.qcow2
  info b.qcow2
  info --output=json b.qcow2
  info --backing-chain b.qcow2
  info --backing-chain --output=json 'sp ace.qcow2'
  info --backing-chain --output=json hole.raw
  info v2.qcow2
  info --output=json v2.qcow2
  info ext.qcow2
  info --output=json ext.qcow2
  info z.qcow2
  info --output=json z.qcow2
  info 'sp ace.qcow2'
  info lost.qcow2
  info --output=json lost.qcow2
  info --backing-chain lost.qcow2
  info --backing-chain --output=json lost.qcow2
  info comp.qcow2
  info ./a.qcow2
  info file:a.qcow2
  info -U a.qcow2
  info nope
  info -- -x
  info -f qcow2 src.raw
  info -f foo src.raw
  info /dev/null
  info directory
  info a.qcow2/x
  info ''
  info --image-opts driver=qcow2,file.filename=a.qcow2
  info --image-opts file.filename=a.qcow2
  info --image-opts driver=raw,offset=512,size=1M,file.filename=src.raw
  info --image-opts driver=qcow2,foo=on,file.filename=b.qcow2
  info --image-opts driver=qcow2,file.filename=a.qcow2,driver=raw
  info --image-opts driver=raw
  info --image-opts a.qcow2
  info --image-opts -f raw driver=raw,file.filename=a.qcow2
  info --image-opts -U driver=raw,file.filename=src.raw
  info --image-opts -U driver=raw,file.filename=src.raw,force-share=off
  info json:{"driver":"qcow2","file":{"driver":"file","filename":"a.qcow2"}}
  info json:{"file.filename":"a.qcow2"}
  info json:{"driver":"raw","size":1024,"file":{"driver":"file","filename":"src.raw"}}
  info json:{"driver":"qcow2"}
  info nope:x
  info null-co://
  info --object secret,id=a,data=x src.raw
  map src.raw
  map --output=json src.raw
  map hole.raw
  map --output=json hole.raw
  map a.qcow2
  map --output=json a.qcow2
  map b.qcow2
  map --output=json b.qcow2
  map 'sp ace.qcow2'
  map --output=json 'sp ace.qcow2'
  map --output=json comp.qcow2
  map empty.qcow2
  map --output=json empty.qcow2
  map empty.raw
  map --output=json empty.raw
  map --start-offset=64k a.qcow2
  map --output=json --start-offset=64k a.qcow2
  map --output=json --start-offset=65537 a.qcow2
  map --max-length=1 a.qcow2
  map --output=json --max-length=1 a.qcow2
  map --output=json --max-length=0 a.qcow2
  map --output=json --start-offset=2G a.qcow2
  map --output=json --start-offset=1G a.qcow2
  map --start-offset=2G a.qcow2
  map --output=json --start-offset=64k --max-length=100k b.qcow2
  map -s 64k -l 1M --output=json a.qcow2
  map --start-offset=0x10000 --max-length=0x10k a.qcow2
  map --output=foo a.qcow2
  map -f foo a.qcow2
  map -U a.qcow2
  map --image-opts driver=qcow2,file.filename=a.qcow2
  map --image-opts driver=raw,offset=64k,size=128k,file.filename=src.raw
  map --output=json --image-opts driver=raw,offset=64k,size=128k,file.filename=src.raw
  map --image-opts -f qcow2 driver=qcow2,file.filename=a.qcow2
  map ext.qcow2
  map --output=json ext.qcow2
  map z.qcow2
  map --output=json z.qcow2
  map lost.qcow2
  map nope
  map --output=json v2.qcow2
  compare src.raw same.raw
  compare src.raw src.qcow2
  compare src.raw comp.qcow2
  compare src.raw other.raw
  compare src.raw longer.raw
  compare longer.raw src.raw
  compare src.raw tail.raw
  compare tail.raw src.raw
  compare other.raw tail.raw
  compare -s src.raw same.raw
  compare -s src.raw longer.raw
  compare -s src.raw other.raw
  compare -s hole.raw a.qcow2
  compare -q src.raw other.raw
  compare -q src.raw longer.raw
  compare -qs src.raw longer.raw
  compare -q nope src.raw
  compare nope src.raw
  compare src.raw nope
  compare -f qcow2 src.raw same.raw
  compare -F qcow2 src.raw same.raw
  compare -f foo src.raw same.raw
  compare -f raw -F qcow2 src.raw src.qcow2
  compare -T none src.raw same.raw
  compare -T off src.raw same.raw
  compare -T bad src.raw same.raw
  compare -U src.raw same.raw
  compare --image-opts driver=raw,file.filename=src.raw driver=raw,file.filename=same.raw
  compare --image-opts src.raw same.raw
  compare --image-opts -F raw driver=raw,file.filename=src.raw driver=raw,file.filename=same.raw
  compare a.qcow2 b.qcow2
  compare b.qcow2 'sp ace.qcow2'
  compare hole.raw src.raw
  compare hole.raw v2.qcow2
  compare empty.raw empty.raw
  compare lost.qcow2 src.raw
  compare -p -s src.raw longer.raw
  measure a.qcow2
  measure -O qcow2 a.qcow2
  measure --output=json -O qcow2 a.qcow2
  measure --output=json -O raw a.qcow2
  measure --size 1G
  measure --output=json --size 1G
  measure --size 1G -O qcow2
  measure --size 1G -O qcow2 --output=json
  measure --size 1G --size 2G
  measure --size 0 -O qcow2
  measure -O foo a.qcow2
  measure -O foo --size 1
  measure -f foo a.qcow2
  measure -f qcow2 src.raw
  measure -O qcow2 -o cluster_size=1 --size 1G
  measure -O qcow2 -o foo=1 --size 1G
  measure -O qcow2 -o foo --size 1G
  measure -O qcow2 -l s1 a.qcow2
  measure -O qcow2 -l zz a.qcow2
  measure -l snapshot.id=1 -O qcow2 a.qcow2
  measure -O qcow2 -l s1 src.raw
  measure nope
  measure -O qcow2 b.qcow2
  measure --image-opts driver=qcow2,file.filename=a.qcow2
  measure --image-opts a.qcow2
  measure --image-opts -f raw driver=qcow2,file.filename=a.qcow2
  measure -U a.qcow2
  measure -O qcow2 -o preallocation=full --size 1G
  measure -O qcow2 -o preallocation=metadata,cluster_size=2M,refcount_bits=64 --size 1T
  measure -O qcow2 -o extended_l2=on,cluster_size=32k src.raw
  measure -O qcow2 -o cluster_size=1k -o cluster_size=4k --size 1G
  measure -O qcow2 src.raw
  measure -O qcow2 odd.raw
  measure -O qcow2 comp.qcow2
  measure -O qcow2 z.qcow2
  measure -O qcow2 z.qcow2 --output=json
  measure -O qcow2 'sp ace.qcow2'
  measure -O raw -o size=1 src.raw
  measure -O raw -o preallocation=full src.raw
  measure -O qcow2 -o size=5G src.raw
  measure hole.raw
  measure -O qcow2 hole.raw
  create -o help
  create -f raw -o help
  create -f raw -o help x.raw
  create -f foo -o help
  create -f qcow2 -o size=1M,help,foo=bar -o help
  convert -f foo src.raw out
`);

let directory: string;
let program: Program;
test.before(async () => {
  program = await bundleProgram();
  directory = mkdtempSync(join(tmpdir(), 'imgpipe-reading-'));
  mkdirSync(join(directory, 'directory'));
  if (tool('qemu-img').available && tool('qemu-io').available) makeCliImages(directory);
});
test.after.always(() => {
  program?.remove();
  if (directory !== undefined) rmSync(directory, { recursive: true, force: true });
});

for (const line of LINES) {
  test.serial(`says the same as qemu-img: ${line}`, (t) => {
    const oracle = tool('qemu-img');
    if (oracle.missing(t) || tool('qemu-io').missing(t)) return;
    const expected = oracle.run(words(line), { cwd: directory });
    const got = program.run(words(line), { cwd: directory });
    t.is(got.text, expected.text);
    t.is(got.stderr, expected.stderr);
    t.is(got.status, expected.status);
  });
}
