import { copyFileSync, existsSync, linkSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import test from 'ava';
import { makeCliImages } from '../support/cli-images.ts';
import { bundleProgram, type Program } from '../support/program.ts';
import { withTmpDir } from '../support/tmp.ts';
import { type ToolResult, tool } from '../support/tools.ts';
import { lines, words } from '../support/words.ts';

/** Command lines that make or change files: each program runs them in a directory of its own. */
const LINES = lines(`
  create x.raw 1M
  create -f raw x.raw 1.5k
  create -q x.raw 10M
  create x.raw 0
  create x.raw 1b
  create x.raw 0x10k
  create -f raw -o preallocation=falloc x.raw 1M
  create -f raw -o preallocation=full x.raw 64k
  create -f raw -o preallocation=metadata x.raw 1M
  create -f raw -o preallocation=zz x.raw 1M
  create -f raw -o size=3M,nocow=on x.raw
  create -f raw -o size=1M x.raw 2M
  create -f raw -o foo=1 x.raw 2M
  create -f raw -b a.qcow2 -F qcow2 x.raw
  create -f raw x.raw
  create -f foo x.raw 1M
  create file:x.raw 1M
  create foo:bar 1M
  create json:{} 1M
  create nodir/x.raw 1M
  create -f qcow2 x.qcow2
  create -f qcow2 x.qcow2 1M
  create -qf qcow2 x.qcow2 1M
  create -f qcow2 x.qcow2 123456789
  create -f qcow2 -o size=1M x.qcow2
  create -f qcow2 -o size=1M x.qcow2 2M
  create -f qcow2 -o size=zz x.qcow2
  create -f qcow2 x,y.qcow2 1M
  create -f qcow2 -o cluster_size=4k,lazy_refcounts=on x.qcow2 10M
  create -f qcow2 -o cluster_size=64k,cluster_size=128k x.qcow2 1M
  create -f qcow2 -o cluster_size=2M -o lazy_refcounts x.qcow2 1M
  create -f qcow2 -o nolazy_refcounts x.qcow2 1M
  create -f qcow2 -o lazy_refcounts=maybe x.qcow2 1M
  create -f qcow2 -o cluster_size=3 x.qcow2 1M
  create -f qcow2 -o cluster_size=512 x.qcow2 1T
  create -f qcow2 -o cluster_size x.qcow2 1M
  create -f qcow2 -o foo=3 x.qcow2 1M
  create -f qcow2 -o =3 x.qcow2 1M
  create -f qcow2 -o preallocation=zz x.qcow2 1M
  create -f qcow2 -o preallocation=metadata x.qcow2 1M
  create -f qcow2 -o preallocation=falloc x.qcow2 1M
  create -f qcow2 -o preallocation=full x.qcow2 1M
  create -f qcow2 -o compat=2 x.qcow2 1M
  create -f qcow2 -o compat=v3 x.qcow2 1M
  create -f qcow2 -o compat=0.10 x.qcow2 1M
  create -f qcow2 -o compat=0.10,lazy_refcounts=on x.qcow2 1M
  create -f qcow2 -o refcount_bits=3 x.qcow2 1T
  create -f qcow2 -o refcount_bits=abc x.qcow2 1M
  create -f qcow2 -o refcount_bits=1 x.qcow2 1M
  create -f qcow2 -o extended_l2=on,cluster_size=4k x.qcow2 1M
  create -f qcow2 -o extended_l2=on x.qcow2 1M
  create -f qcow2 -o compression_type=lz4 x.qcow2 1M
  create -f qcow2 -o compression_type=zstd x.qcow2 1M
  create -f qcow2 -o data_file_raw=on x.qcow2 1M
  create -f qcow2 -o data_file=x.data x.qcow2 1M
  create -f qcow2 -b a.qcow2 x.qcow2
  create -f qcow2 -b a.qcow2 -F qcow2 x.qcow2
  create -f qcow2 -b a.qcow2 -F qcow2 x.qcow2 10M
  create -f qcow2 -b src.raw -F raw x.qcow2 10M
  create -f qcow2 -b a.qcow2 -F foo x.qcow2
  create -f qcow2 -b a.qcow2 -F qcow2 -o backing_file=z x.qcow2 10M
  create -f qcow2 -o backing_file=a.qcow2,backing_fmt=qcow2 x.qcow2
  create -f qcow2 -b 'sp ace.qcow2' -F qcow2 'y y.qcow2'
  create -f qcow2 -b nope -F qcow2 x.qcow2
  create -f qcow2 -b nope -F qcow2 x.qcow2 1M
  create -f qcow2 -u -b nope x.qcow2
  create -f qcow2 -u -b nope x.qcow2 1M
  create -f qcow2 -u -b nope -F raw x.qcow2
  create -f qcow2 -u -b nope -F raw x.qcow2 1M
  create -f qcow2 -b x.qcow2 -F qcow2 x.qcow2 1M
  create -f qcow2 -F qcow2 x.qcow2 1M
  create -f qcow2 -b '' x.qcow2 1M
  create -f qcow2 nodir/x.qcow2 1M
  create -f qcow2 /tmp 1M
  convert src.raw out
  convert -O qcow2 src.raw out
  convert -f raw -O qcow2 -c src.raw out
  convert -O qcow2 -o compression_type=zstd,cluster_size=4k -c src.raw out
  convert -O qcow2 -o compat=0.10,refcount_bits=16 src.raw out
  convert comp.qcow2 out
  convert 'sp ace.qcow2' out
  convert -O qcow2 b.qcow2 out
  convert odd.raw out
  convert -O qcow2 odd.raw out
  convert empty.raw out
  convert -O qcow2 empty.raw out
  convert /dev/null out
  convert src.raw src.qcow2 out
  convert -O qcow2 odd.raw src.raw out
  convert -W -m 4 -O qcow2 src.raw out
  convert -S 0 hole.raw out
  convert -S 1k src.raw out
  convert -C src.raw out
  convert -U src.raw out
  convert -q src.raw out
  convert -pq src.raw out
  convert -r 0 src.raw out
  convert -t none src.raw out
  convert -t writethrough -T none src.raw out
  convert -t bad src.raw out
  convert -T bad src.raw out
  convert -l s1 a.qcow2 out
  convert -l snapshot.id=1,snapshot.name=s1 a.qcow2 out
  convert -l snapshot.id=1,snapshot.name=zz a.qcow2 out
  convert -l nope a.qcow2 out
  convert -l s1 src.raw out
  convert -l s1 a.qcow2 a.qcow2 out
  convert -f qcow2 src.raw out
  convert -f foo src.raw out
  convert -O foo src.raw out
  convert nope out
  convert '' out
  convert src.raw nodir/out
  convert -O qcow2 src.raw nodir/out
  convert -n src.raw nope
  convert -n a.qcow2 hole.raw
  convert -n src.raw hole.raw
  convert -n --target-is-zero src.raw hole.raw
  convert -n src.raw empty.qcow2
  convert -n -O qcow2 src.raw v2.qcow2
  convert -n -O raw src.raw v2.qcow2
  convert -c src.raw out
  convert -c -O raw src.raw out
  convert -c -O qcow2 -o preallocation=full src.raw out
  convert -o foo=bar -O qcow2 src.raw out
  convert -o cluster_size=1 -O qcow2 src.raw out
  convert -o size=1M -O qcow2 src.raw out
  convert -B a.qcow2 -O qcow2 src.raw out
  convert -B a.qcow2 -O raw b.qcow2 out
  convert -B a.qcow2 -F qcow2 -O qcow2 b.qcow2 out
  convert -O qcow2 -o backing_file=a.qcow2 b.qcow2 out
  convert -O qcow2 -o backing_file=a.qcow2,backing_fmt=qcow2 b.qcow2 out
  convert -B a.qcow2 -F qcow2 -O qcow2 b.qcow2 b.qcow2 out
  convert -F qcow2 -O qcow2 b.qcow2 out
  convert --bitmaps -O qcow2 src.raw out
  convert --bitmaps src.raw out
  convert --image-opts driver=raw,file.filename=src.raw out
  convert --image-opts file.filename=src.raw out
  convert --image-opts driver=raw,offset=64k,size=100k,file.filename=src.raw out
  convert --image-opts -f raw driver=raw,file.filename=src.raw out
  convert --image-opts foo out
  convert --image-opts driver=foo out
  convert --target-image-opts -n src.raw driver=raw,file.filename=hole.raw
  convert --target-image-opts -n src.raw driver=qcow2,file.filename=v2.qcow2
  convert --target-image-opts -O raw -n src.raw driver=raw,file.filename=hole.raw
  convert -f raw file:src.raw out
  convert json:{"driver":"raw","file":{"driver":"file","filename":"src.raw"}} out
  convert --object secret,id=a,data=b src.raw out
  convert lost.qcow2 out
  convert --salvage src.raw out
  dd if=src.raw of=out
  dd if=src.raw of=out bs=1M
  dd if=src.raw of=out bs=1.5k
  dd if=src.raw of=out bs=0x200
  dd if=src.raw of=out bs=2147483647
  dd if=src.raw of=out count=0
  dd if=src.raw of=out count=3 bs=1000
  dd if=src.raw of=out count=1k bs=1
  dd if=src.raw of=out skip=1
  dd if=src.raw of=out skip=1 count=3 bs=64k
  dd if=src.raw of=out skip=1M
  dd if=src.raw of=out count=3 skip=2620 bs=1000
  dd if=src.raw of=out count=1 skip=2621440 bs=1
  dd if=a.qcow2 of=out bs=1M count=2 skip=1
  dd -O qcow2 if=src.raw of=out
  dd -O qcow2 if=src.raw of=out count=1 bs=1000
  dd -f raw -O raw if=src.raw of=out bs=1000
  dd -U if=src.raw of=out
  dd -- if=src.raw of=out
  dd if=nope if=src.raw of=out
  dd if=odd.raw of=out
  dd if= of=out
  dd if=nope of=out
  dd -f qcow2 if=src.raw of=out
  dd -f foo if=src.raw of=out
  dd -O foo if=src.raw of=out
  dd if=src.raw of=nodir/x
  dd --image-opts if=driver=raw,file.filename=src.raw of=out
  dd --image-opts if=driver=raw,file.filename=src.raw of=driver=raw,file.filename=out
  dd --image-opts -f raw if=driver=raw,file.filename=src.raw of=out
`);

/** What `check` exits with for a format that has no checks. */
const NO_CHECK = 63;

let images: string;
let program: Program;
test.before(async () => {
  program = await bundleProgram();
  images = mkdtempSync(join(tmpdir(), 'imgpipe-writing-'));
  if (tool('qemu-img').available && tool('qemu-io').available) makeCliImages(images);
});
test.after.always(() => {
  program?.remove();
  if (images !== undefined) rmSync(images, { recursive: true, force: true });
});

/** Runs `run` in a copy of the images and returns what it said and which files it left. */
function inCopy(cwd: string, line: string, run: (cwd: string) => ToolResult) {
  mkdirSync(cwd);
  // Links cost nothing; only what the line may write to must be a copy.
  for (const file of readdirSync(images)) {
    const place = line.endsWith(file) ? copyFileSync : linkSync;
    place(join(images, file), join(cwd, file));
  }
  const { text, stderr, status } = run(cwd);
  // One of the oracle's hints lacks the end of its line.
  return { said: { text, stderr: stderr.trimEnd(), status }, files: readdirSync(cwd).sort() };
}

/** What `info` says of a file, without the space it takes and the time of its snapshots. */
function description(cwd: string, file: string): unknown {
  const described = tool('qemu-img').run(['info', '-U', '--output=json', file], { cwd });
  if (described.status !== 0) return described.stderr;
  const { 'actual-size': _, snapshots: __, ...rest } = JSON.parse(described.text);
  return rest;
}

for (const line of LINES) {
  test.serial(`does the same as qemu-img: ${line}`, (t) => {
    const oracle = tool('qemu-img');
    if (oracle.missing(t) || tool('qemu-io').missing(t)) return;
    return withTmpDir((directory) => {
      const [theirs, ours] = [join(directory, 'a'), join(directory, 'b')];
      const expected = inCopy(theirs, line, (cwd) => oracle.run(words(line), { cwd }));
      const got = inCopy(ours, line, (cwd) => program.run(words(line), { cwd }));
      t.deepEqual(got.said, expected.said);
      const failed = expected.said.status !== 0;
      // A command of the oracle that fails may leave a file that is no image; ours leaves none.
      t.deepEqual(got.files, failed ? readdirSync(images).sort() : expected.files);
      for (const file of got.files.filter((each) => !isOriginal(join(ours, each)))) {
        t.deepEqual(description(ours, file), description(theirs, file), file);
        // Nothing can be read where the backing file is missing, and a data file is no image.
        if (failed || line.includes('nope') || file.endsWith('.data')) continue;
        oracle.expect(['compare', '-U', join(theirs, file), join(ours, file)], { cwd: ours });
        const { status, stderr } = oracle.run(['check', '-U', file], { cwd: ours });
        t.true(status === 0 || status === NO_CHECK, stderr);
      }
    });
  });
}

/** Whether a file is a link to one of the images, so that there is nothing to compare. */
function isOriginal(path: string): boolean {
  const original = join(images, basename(path));
  return existsSync(original) && statSync(original).ino === statSync(path).ino;
}
