import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { bundleProgram, type Program } from '../support/program.ts';
import { type ShellResult, shellIn } from '../support/shell.ts';
import { tool } from '../support/tools.ts';

const MIB = 1024 * 1024;
const qemuImg = tool('qemu-img');

let program: Program;
let directory: string;
let sh: (script: string) => ShellResult;

test.before(async () => {
  program = await bundleProgram();
  directory = mkdtempSync(join(tmpdir(), 'imgpipe-pipes-'));
  sh = shellIn(directory, program);
  // 40 MiB and a bit, with holes, runs of data across the borders of clusters, and an odd length.
  const disk = Buffer.alloc(40 * MIB + 5 * 512);
  let state = 1;
  for (const [at, length] of [
    [0, 3000],
    [1 * MIB - 700, 200_000],
    [9 * MIB, 3 * MIB],
    [20 * MIB + 65536, 65536],
    [35 * MIB + 4096, 4096],
    [40 * MIB, 5 * 512],
  ]) {
    for (let index = 0; index < length; index += 1) {
      state = (Math.imul(state, 1103515245) + 12345) | 0;
      disk[at + index] = state >>> 16;
    }
  }
  writeFileSync(join(directory, 'disk.raw'), disk);
  // The same with real holes: what was not written shall not come out as data.
  sh('cp --sparse=always disk.raw sparse.raw');
});

test.after.always(() => {
  program?.remove();
  if (directory !== undefined) rmSync(directory, { recursive: true, force: true });
});

function file(name: string): string {
  return join(directory, name);
}

function isDisk(t: ExecutionContext, name: string): void {
  t.true(readFileSync(file(name)).equals(readFileSync(file('disk.raw'))), name);
}

/** No errors and no leaks, and the disk's contents. */
function isGoodQcow2(t: ExecutionContext, name: string): void {
  const check = qemuImg.run(['check', file(name)]);
  t.is(check.status, 0, `${name}: ${check.text}${check.stderr}`);
  const compare = qemuImg.run(['compare', '-F', 'raw', file(name), file('disk.raw')]);
  t.is(compare.status, 0, `${name}: ${compare.text}${compare.stderr}`);
}

function succeeds(t: ExecutionContext, script: string): ShellResult {
  const result = sh(script);
  t.true(
    result.statuses.every((status) => status === 0),
    `${script}: ${result.statuses} ${result.stderr}`,
  );
  return result;
}

for (const verb of ['convert -f raw -O qcow2 - from-VERB.qcow2', 'dd -f raw -O qcow2 if=- of=from-VERB.qcow2']) {
  const name = verb.split(' ')[0];
  test(`${name} makes a qcow2 file of raw bytes of unknown length`, (t) => {
    if (qemuImg.missing(t)) return;
    succeeds(t, `cat disk.raw | $IMGPIPE ${verb.replace('VERB', name)}`);
    isGoodQcow2(t, `from-${name}.qcow2`);
    t.true(statSync(file(`from-${name}.qcow2`)).blocks * 512 < 8 * MIB);
  });
}

test('raw bytes of unknown length become a sparse raw file of whole sectors', (t) => {
  succeeds(t, 'cat disk.raw | $IMGPIPE dd if=- of=plain.raw');
  isDisk(t, 'plain.raw');
  t.true(statSync(file('plain.raw')).blocks * 512 < 8 * MIB);
  succeeds(t, 'head -c 100001 disk.raw | $IMGPIPE convert -f raw -O raw - odd.raw');
  const odd = readFileSync(file('odd.raw'));
  t.is(odd.length, 100352);
  t.true(odd.subarray(0, 100001).equals(readFileSync(file('disk.raw')).subarray(0, 100001)));
  t.true(odd.subarray(100001).every((byte) => byte === 0));
  succeeds(t, 'printf "" | $IMGPIPE convert -f raw -O qcow2 - empty.qcow2');
  t.is(JSON.parse(succeeds(t, '$IMGPIPE info --output=json empty.qcow2').stdout.toString())['virtual-size'], 0);
});

test('zeros at the end of a stream belong to the disk', (t) => {
  succeeds(t, 'head -c 3M /dev/zero | $IMGPIPE dd if=- of=zeros.raw');
  t.is(statSync(file('zeros.raw')).size, 3 * MIB);
  succeeds(t, 'head -c 3M /dev/zero | $IMGPIPE convert -f raw -O qcow2 - zeros.qcow2');
  t.is(JSON.parse(succeeds(t, '$IMGPIPE info --output=json zeros.qcow2').stdout.toString())['virtual-size'], 3 * MIB);
});

test('a pipe of unknown length can be compressed on its way', (t) => {
  if (qemuImg.missing(t)) return;
  succeeds(t, 'cat disk.raw | $IMGPIPE convert -c -f raw -O qcow2 - packed-unknown.qcow2');
  isGoodQcow2(t, 'packed-unknown.qcow2');
});

test('any image comes out of standard output as raw bytes', (t) => {
  if (qemuImg.missing(t)) return;
  qemuImg.expect(['convert', '-f', 'raw', '-O', 'qcow2', file('disk.raw'), file('for-stdout.qcow2')]);
  succeeds(t, '$IMGPIPE convert -O raw for-stdout.qcow2 - | cat > out.raw');
  isDisk(t, 'out.raw');
  succeeds(t, '$IMGPIPE dd -f qcow2 if=for-stdout.qcow2 of=- | cmp - disk.raw');
});

test('dd passes over and stops at blocks of a pipe', (t) => {
  // Whoever writes the pipe may find it closed, as with dd(1).
  t.is(sh('cat disk.raw | $IMGPIPE dd bs=1M skip=9 count=12 if=- of=part.raw').statuses[1], 0);
  const part = readFileSync(file('disk.raw')).subarray(9 * MIB, 12 * MIB);
  t.true(readFileSync(file('part.raw')).equals(part));
});

const OPTIONS = [
  'cluster_size=65536',
  'cluster_size=512',
  'cluster_size=2M',
  'compat=0.10',
  'compat=1.1,lazy_refcounts=on',
  'refcount_bits=1',
  'refcount_bits=64,cluster_size=512',
  'extended_l2=on',
  'compression_type=zstd',
  'preallocation=metadata',
];

for (const options of OPTIONS) {
  test(`qcow2 with ${options} goes through a pipe in one pass, and back in one`, (t) => {
    if (qemuImg.missing(t)) return;
    const name = `stream-${options.replace(/\W/g, '_')}`;
    const made = succeeds(
      t,
      `$IMGPIPE -T '*_spooled' convert -O qcow2 -o ${options} sparse.raw - | cat > ${name}.qcow2`,
    );
    isGoodQcow2(t, `${name}.qcow2`);
    t.is(made.stderr, '');
    const back = succeeds(t, `cat ${name}.qcow2 | $IMGPIPE -T '*_spooled' convert -O raw - ${name}.raw`);
    isDisk(t, `${name}.raw`);
    t.is(back.stderr, '');
    if (!/preallocation|2M/.test(options)) t.true(statSync(file(`${name}.qcow2`)).size < 12 * MIB);
  });
}

test('images go from one end of a pipe of ours to the other', (t) => {
  succeeds(t, '$IMGPIPE convert -O qcow2 sparse.raw - | $IMGPIPE convert - -O qcow2 - | $IMGPIPE dd if=- of=twice.raw');
  isDisk(t, 'twice.raw');
});

test('qcow2 of unknown length, and compressed qcow2, reach a pipe through a temporary file', (t) => {
  if (qemuImg.missing(t)) return;
  const unknown = succeeds(
    t,
    "cat disk.raw | $IMGPIPE -T 'output_spooled' dd -f raw -O qcow2 if=- of=- | cat > a.qcow2",
  );
  t.regex(unknown.stderr, /^output_spooled file=- bytes=\d+\n$/);
  isGoodQcow2(t, 'a.qcow2');
  const packed = succeeds(t, "$IMGPIPE -T 'output_spooled' convert -c -O qcow2 sparse.raw - | cat > b.qcow2");
  t.regex(packed.stderr, /^output_spooled/);
  isGoodQcow2(t, 'b.qcow2');
  succeeds(t, 'cat b.qcow2 | $IMGPIPE convert -O raw - b.raw');
  isDisk(t, 'b.raw');
});

test('qcow2 that was not made for a pipe is spooled and read', (t) => {
  if (qemuImg.missing(t)) return;
  // Written backwards: the data are in no order that a disk is read in.
  qemuImg.expect(['create', '-f', 'qcow2', file('backwards.qcow2'), '4M']);
  const qemuIo = tool('qemu-io');
  if (qemuIo.missing(t)) return;
  for (let at = 3; at >= 0; at -= 1) qemuIo.expect(['-c', `write -P ${at + 1} ${at}M 1M`, file('backwards.qcow2')]);
  const { stderr } = succeeds(t, "cat backwards.qcow2 | $IMGPIPE -T 'input_spooled' convert -O raw - backwards.raw");
  t.regex(stderr, /^input_spooled file=- bytes=\d+\n$/);
  const found = readFileSync(file('backwards.raw'));
  for (let at = 0; at < 4; at += 1) t.true(found.subarray(at * MIB, (at + 1) * MIB).every((byte) => byte === at + 1));
});

test('an image with a backing file or a snapshot comes through a pipe', (t) => {
  if (qemuImg.missing(t)) return;
  const qemuIo = tool('qemu-io');
  if (qemuIo.missing(t)) return;
  qemuImg.expect(['create', '-f', 'qcow2', '-b', file('disk.raw'), '-F', 'raw', file('above.qcow2')]);
  succeeds(t, 'cat above.qcow2 | $IMGPIPE convert -O raw - flat.raw');
  isDisk(t, 'flat.raw');
  qemuImg.expect(['convert', '-f', 'raw', '-O', 'qcow2', file('disk.raw'), file('snapped.qcow2')]);
  qemuImg.expect(['snapshot', '-c', 'before', file('snapped.qcow2')]);
  qemuIo.expect(['-c', 'write -P 9 0 1M', file('snapped.qcow2')]);
  succeeds(t, 'cat snapped.qcow2 | $IMGPIPE convert -l before -O raw - snapped.raw');
  isDisk(t, 'snapped.raw');
});

test('an overlay goes to a pipe without the data of its backing file', (t) => {
  if (qemuImg.missing(t)) return;
  const qemuIo = tool('qemu-io');
  if (qemuIo.missing(t)) return;
  for (const compat of ['0.10', '1.1']) {
    qemuImg.expect([
      'create',
      '-f',
      'qcow2',
      '-o',
      `compat=${compat}`,
      '-b',
      'disk.raw',
      '-F',
      'raw',
      file('over.qcow2'),
    ]);
    const writes = ['write -P 3 1000k 3k', 'write -z 9M 1M', 'write -P 4 30M 128k', 'write -z 10248k 1k'];
    for (const write of writes) qemuIo.expect(['-c', write, file('over.qcow2')]);
    succeeds(t, `$IMGPIPE convert -O qcow2 -o compat=${compat} -B disk.raw -F raw over.qcow2 - | cat > over2.qcow2`);
    t.is(qemuImg.run(['check', file('over2.qcow2')]).status, 0);
    t.is(qemuImg.run(['compare', file('over.qcow2'), file('over2.qcow2')]).status, 0, compat);
    t.true(statSync(file('over2.qcow2')).size < 3 * MIB);
  }
});

test('files that are redirected are read and written at random', (t) => {
  if (qemuImg.missing(t)) return;
  const trace = "-T 'stdio_open'";
  const out = succeeds(t, `$IMGPIPE ${trace} convert -O qcow2 sparse.raw - > redirected.qcow2`);
  t.is(out.stderr, 'stdio_open end=output pipe=false seekable=true\n');
  isGoodQcow2(t, 'redirected.qcow2');
  const back = succeeds(t, `$IMGPIPE ${trace} convert -O raw - back.raw < redirected.qcow2`);
  t.is(back.stderr, 'stdio_open end=input pipe=false seekable=true\n');
  isDisk(t, 'back.raw');
});

test('output follows and precedes what others write to the same file', (t) => {
  succeeds(t, '{ printf before; $IMGPIPE convert -f raw -O raw sparse.raw -; printf after; } > around.bin');
  succeeds(t, '{ $IMGPIPE convert -f raw -O raw sparse.raw -; printf after; } > first.bin');
  succeeds(t, 'printf before > appended.bin; $IMGPIPE convert -f raw -O raw sparse.raw - >> appended.bin');
  const disk = readFileSync(file('disk.raw'));
  t.true(readFileSync(file('around.bin')).equals(Buffer.concat([Buffer.from('before'), disk, Buffer.from('after')])));
  t.true(readFileSync(file('first.bin')).equals(Buffer.concat([disk, Buffer.from('after')])));
  t.true(readFileSync(file('appended.bin')).equals(Buffer.concat([Buffer.from('before'), disk])));
});

test('input begins where others have stopped reading', (t) => {
  succeeds(t, '{ dd bs=1M count=9 of=/dev/null status=none; $IMGPIPE dd if=- of=rest.raw; } < disk.raw');
  t.true(readFileSync(file('rest.raw')).equals(readFileSync(file('disk.raw')).subarray(9 * MIB)));
});

for (const [program_, suffix] of [
  ['gzip', 'gz'],
  ['bzip2', 'bz2'],
  ['xz', 'xz'],
  ['zstd', 'zst'],
]) {
  test(`a disk packed by ${program_} is unpacked on standard input, from pipes and files`, (t) => {
    if (tool(program_).missing(t) || qemuImg.missing(t)) return;
    succeeds(t, `${program_} -qc disk.raw > disk.raw.${suffix}`);
    succeeds(t, `cat disk.raw.${suffix} | $IMGPIPE convert -f raw -O qcow2 - ${suffix}.qcow2`);
    isGoodQcow2(t, `${suffix}.qcow2`);
    succeeds(t, `$IMGPIPE dd if=- of=${suffix}.raw < disk.raw.${suffix}`);
    isDisk(t, `${suffix}.raw`);
    succeeds(t, `$IMGPIPE convert -O qcow2 sparse.raw - | ${program_} -qc | $IMGPIPE convert -O raw - ${suffix}-2.raw`);
    isDisk(t, `${suffix}-2.raw`);
  });

  test(`a stream of ${program_} that is cut off leaves no image behind`, (t) => {
    if (tool(program_).missing(t)) return;
    succeeds(t, `${program_} -qc disk.raw > cut.raw.${suffix}`);
    const size = statSync(file(`cut.raw.${suffix}`)).size;
    for (const verb of ['convert -f raw -O raw - cut.out', 'dd -O qcow2 if=- of=cut.out']) {
      const { statuses, stderr } = sh(`head -c ${size - 9} cut.raw.${suffix} | $IMGPIPE ${verb}`);
      t.is(statuses[1], 1);
      t.regex(stderr, /ends too early/);
      t.false(existsSync(file('cut.out')));
    }
  });
}

test('with driver=raw in an option string, standard input is taken as it is', (t) => {
  if (tool('gzip').missing(t)) return;
  succeeds(
    t,
    'gzip -c disk.raw | tee as-is.gz | $IMGPIPE convert --image-opts driver=raw,file.filename=- -O raw as-is.raw',
  );
  const packed = readFileSync(file('as-is.gz'));
  t.true(readFileSync(file('as-is.raw')).subarray(0, packed.length).equals(packed));
});

test('a qcow2 stream that is cut off neither opens nor passes a check', (t) => {
  if (qemuImg.missing(t)) return;
  succeeds(t, '$IMGPIPE convert -O qcow2 sparse.raw - | cat > whole.qcow2');
  const size = statSync(file('whole.qcow2')).size;
  for (const length of [100_000, 1_000_000, size - 65536]) {
    succeeds(t, `head -c ${length} whole.qcow2 > cut.qcow2`);
    t.not(qemuImg.run(['check', file('cut.qcow2')]).status, 0);
    const forward = sh('cat cut.qcow2 | $IMGPIPE convert -O raw - cut.raw');
    t.is(forward.statuses[1], 1, `${length}: ${forward.stderr}`);
    t.false(existsSync(file('cut.raw')));
    if (length < size - 65536) t.is(sh('$IMGPIPE convert -O raw cut.qcow2 cut.raw').statuses[0], 1);
  }
});

test('what a pipe cannot have is refused before anything is written', (t) => {
  for (const options of ['preallocation=full', 'preallocation=falloc', 'data_file=outside.data', 'nocow=on']) {
    const { statuses, stdout, stderr } = sh(`$IMGPIPE convert -O qcow2 -o ${options} sparse.raw - | cat`);
    t.is(statuses[0], 1, options);
    t.is(stdout.length, 0);
    t.regex(stderr, /^imgpipe: .*A qcow2 image in a pipe can't have/);
  }
  t.false(existsSync(file('outside.data')));
  t.is(sh('$IMGPIPE convert -n -O raw sparse.raw - | cat').statuses[0], 1);
  t.is(sh('cat disk.raw | $IMGPIPE convert -f raw -O raw -o preallocation=full - full.raw').statuses[1], 1);
  t.false(existsSync(file('full.raw')));
});

test('standard input can be named once', (t) => {
  const { statuses, stderr } = sh('cat disk.raw | $IMGPIPE convert -f raw -O raw - - two.raw');
  t.is(statuses[1], 1);
  t.regex(stderr, /Standard input can be used only once/);
  t.false(existsSync(file('two.raw')));
});

test('several images, one of them from a pipe, are joined', (t) => {
  succeeds(t, 'cat disk.raw | $IMGPIPE convert -f raw -O raw disk.raw - joined.raw');
  const disk = readFileSync(file('disk.raw'));
  t.true(readFileSync(file('joined.raw')).equals(Buffer.concat([disk, disk])));
});

test('compare, map and measure take a pipe, too', (t) => {
  succeeds(t, '$IMGPIPE convert -O qcow2 sparse.raw - | $IMGPIPE compare - disk.raw');
  succeeds(t, '$IMGPIPE convert -O qcow2 sparse.raw - | $IMGPIPE map --output=json -');
  succeeds(t, 'cat disk.raw | $IMGPIPE measure -f raw -O qcow2 -');
});

test('nothing is left behind in the directories of output and temporary files', (t) => {
  const place = mkdtempSync(join(tmpdir(), 'imgpipe-spool-'));
  try {
    const inPlace = shellIn(place, program, { TMPDIR: place });
    const { statuses } = inPlace(`cat ${file('disk.raw')} | $IMGPIPE dd -f raw -O qcow2 if=- of=- | cat > out.qcow2`);
    t.deepEqual(statuses, [0, 0, 0]);
    t.deepEqual(readdirSync(place), ['out.qcow2']);
  } finally {
    rmSync(place, { recursive: true, force: true });
  }
});
