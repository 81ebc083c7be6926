import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { check, snapshots } from '../../lib/index.ts';
import { Random } from '../support/model.ts';
import { bundleProgram, type Program } from '../support/program.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { wholeDisk } from '../support/whole-disk.ts';

const MIB = 1024 * 1024;
const SIZE = 8 * MIB;
/** Times that a command is killed. */
const KILLS = 10;
/** Of which qemu-img looks at one of so many. */
const SAMPLE = 5;

const qemuImg = tool('qemu-img');
let program: Program;

test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program?.remove());

interface Case {
  format: string;
  /** Lines for qemu-img that make the files, of which `image` is the one that is looked at. */
  make: readonly string[];
  /** The command that is killed. */
  command: string;
  /** Files that it changes. */
  changes?: readonly string[];
  /** What the disk may have become. */
  becomes?: 'snapshot' | 'longer' | 'shorter';
  /** Makes the image wrong, before: the command is a repair. */
  spoil?: (image: Buffer) => void;
}

const SMALL = '-o cluster_size=4k';
const FROM_DISK = (options = SMALL) => `convert -f raw -O qcow2 ${options} disk image`;

const CASES: Readonly<Record<string, Case>> = {
  'snapshot -c': { format: 'qcow2', make: [FROM_DISK()], command: 'snapshot -c new image' },
  'snapshot -a': {
    format: 'qcow2',
    make: [FROM_DISK(), 'snapshot -c old image', 'io -c "write -P 7 1M 4M" image'],
    ...{ command: 'snapshot -a old image', becomes: 'snapshot' },
  },
  'snapshot -d': {
    format: 'qcow2',
    make: [FROM_DISK(), 'snapshot -c old image', 'io -c "write -P 7 1M 4M" image'],
    command: 'snapshot -d old image',
  },
  'resize to more': { format: 'qcow2', make: [FROM_DISK()], command: 'resize image 64M', becomes: 'longer' },
  'resize to more with its tables': {
    ...{ format: 'qcow2', make: [FROM_DISK()], becomes: 'longer' },
    command: 'resize --preallocation=metadata image 64M',
  },
  'resize to less': { format: 'qcow2', make: [FROM_DISK()], command: 'resize --shrink image 3M', becomes: 'shorter' },
  'amend to the old version': {
    ...{ format: 'qcow2', make: [FROM_DISK(), 'io -c "write -z 1M 3M" image'] },
    command: 'amend -f qcow2 -o compat=0.10 image',
  },
  'amend of refcounts': { format: 'qcow2', make: [FROM_DISK()], command: 'amend -f qcow2 -o refcount_bits=64 image' },
  'bitmap --merge': {
    format: 'qcow2',
    make: [
      FROM_DISK(),
      'bitmap --add -g 4k image a',
      'io -c "write -P 7 1M 4M" image',
      'bitmap --add -g 512 --disable image b',
    ],
    command: 'bitmap --merge a image b',
  },
  'check -r all': {
    ...{ format: 'qcow2', make: [FROM_DISK()], command: 'check -q -r all image' },
    // Refcounts of the first clusters, which are in use.
    spoil: (image) => image.fill(0, 2 * 4096 + 64, 2 * 4096 + 2048),
  },
  commit: {
    format: 'qcow2',
    make: [
      'convert -f raw -O qcow2 disk base',
      `create -q -f qcow2 ${SMALL} -b base -F qcow2 image`,
      'io -c "write -P 7 1M 5M" image',
    ],
    ...{ command: 'commit -q image', changes: ['image', 'base'] },
  },
  'commit to qed': {
    format: 'qcow2',
    make: [
      'convert -f raw -O qed disk base',
      `create -q -f qcow2 ${SMALL} -b base -F qed image`,
      'io -c "write -P 7 1M 5M" image',
    ],
    ...{ command: 'commit -q image', changes: ['image', 'base'] },
  },
  rebase: {
    format: 'qcow2',
    make: [
      'convert -f raw -O qcow2 disk base',
      'create -q -f raw other 8M',
      `create -q -f qcow2 ${SMALL} -b base -F qcow2 image`,
      'io -c "write -P 7 1M 4M" image',
    ],
    command: 'rebase -b other -F raw image',
  },
  'convert -n': {
    ...{ format: 'qcow2', make: [FROM_DISK()] },
    // What is there already is written once more.
    command: 'convert -n -f raw -O qcow2 disk image',
  },
};

/** Words of a line; quotes keep them together. */
function wordsOf(line: string): string[] {
  return [...line.matchAll(/"([^"]*)"|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain);
}

function make(directory: string, { make: lines, spoil, format }: Case): void {
  const disk = new Random(5).bytes(MIB);
  // Data, and in each eighth MiB a hole.
  const parts = Array.from({ length: SIZE / MIB }, (_, at) => (at % 8 === 7 ? Buffer.alloc(MIB) : disk));
  writeFileSync(join(directory, 'disk'), Buffer.concat(parts));
  for (const line of lines) {
    const [verb, ...args] = wordsOf(line);
    if (verb === 'io') tool('qemu-io').expect(['-f', format, ...args], { cwd: directory });
    else qemuImg.expect([verb, ...args], { cwd: directory });
  }
  if (spoil === undefined) return;
  const image = readFileSync(join(directory, 'image'));
  spoil(image);
  writeFileSync(join(directory, 'image'), image);
}

/** Runs the program to its end; returns the milliseconds from its first change of the files to the last. */
async function timeChanges(directory: string, each: Case): Promise<number> {
  const watched = watch(directory, each);
  const [code] = await once(start(directory, each), 'exit');
  if (code !== 0) throw new Error(`${each.command} ends with ${code}`);
  return watched.end();
}

/** Kills the program so many milliseconds after its first change of the files. Whether that was before its end. */
async function runAndKill(directory: string, each: Case, milliseconds: number): Promise<boolean> {
  const child = start(directory, each);
  const ended = once(child, 'exit');
  const watched = watch(directory, each, () => setTimeout(() => child.kill('SIGKILL'), milliseconds));
  const [, signal] = await ended;
  watched.end();
  return signal === 'SIGKILL';
}

function start(directory: string, { command }: Case): ChildProcess {
  return spawn(process.execPath, [program.path, ...wordsOf(command)], { cwd: directory, stdio: 'ignore' });
}

/** Looks each millisecond whether a file that is changed has changed. */
function watch(directory: string, { changes = ['image'] }: Case, onFirst: () => void = () => {}): { end(): number } {
  const stamp = () =>
    changes.map((file) => statSync(join(directory, file), { bigint: true }).mtimeNs).reduce((sum, each) => sum + each);
  const before = stamp();
  let first = 0;
  const timer = setInterval(() => {
    if (first !== 0 || stamp() === before) return;
    first = performance.now();
    onFirst();
  }, 1);
  return {
    end() {
      clearInterval(timer);
      return first === 0 ? 0 : performance.now() - first;
    },
  };
}

interface Before {
  disk: Buffer;
  /** By name. */
  snapshots: ReadonlyMap<string, Buffer>;
}

async function contents(image: string, format: string): Promise<Before> {
  const saved = new Map<string, Buffer>();
  for (const { name } of await snapshots({ image, format }))
    saved.set(name, await wholeDisk(image, { format, snapshot: { name } }));
  return { disk: await wholeDisk(image, { format }), snapshots: saved };
}

async function assertSurvived(t: ExecutionContext, image: string, each: Case, before: Before): Promise<void> {
  const { disk, snapshots: saved } = await contents(image, each.format);
  const kept = Math.min(disk.length, before.disk.length);
  const old = before.snapshots.get('old');
  if (each.becomes === 'shorter') t.true(startsWith(disk, before.disk.subarray(0, 3 * MIB)));
  else
    t.true(
      startsWith(disk, before.disk.subarray(0, kept)) || (each.becomes === 'snapshot' && disk.equals(old as Buffer)),
    );
  if (each.becomes === undefined) t.is(disk.length, before.disk.length);
  for (const [name, bytes] of saved) t.true(bytes.equals(before.snapshots.get(name) ?? before.disk), name);
}

function startsWith(disk: Buffer, part: Buffer): boolean {
  return disk.subarray(0, part.length).equals(part);
}

async function assertSound(t: ExecutionContext, image: string, format: string, asksQemu: boolean): Promise<void> {
  if (asksQemu) {
    const { status, text } = qemuImg.run(['check', '-r', 'leaks', '-f', format, image]);
    t.is(status, 0, text);
  }
  const { corruptions, checkErrors } = await check({ image, format });
  t.is(corruptions + checkErrors, 0);
}

for (const [name, each] of Object.entries(CASES)) {
  test.serial(`${name}: whenever the program is killed, the image is sound, and what was in it is there`, async (t) => {
    if (qemuImg.missing(t) || tool('qemu-io').missing(t)) return;
    await withTmpDir(async (directory) => {
      make(directory, each);
      const image = join(directory, 'image');
      const { changes = ['image'] } = each;
      mkdirSync(join(directory, 'kept'));
      for (const file of changes) copyFileSync(join(directory, file), join(directory, 'kept', file));
      const restore = () => {
        for (const file of changes) copyFileSync(join(directory, 'kept', file), join(directory, file));
      };
      const before = await contents(image, each.format);
      const length = await timeChanges(directory, each);
      const random = new Random(name.length);
      let killed = 0;
      for (let round = 0; round < KILLS; round += 1) {
        restore();
        if (await runAndKill(directory, each, (length * random.below(1000)) / 1000)) killed += 1;
        await assertSurvived(t, image, each, before);
        if (each.spoil !== undefined || isDirtyQcow2(image)) {
          await check({ image, format: each.format, repair: 'all' });
          await assertSurvived(t, image, each, before);
        }
        await assertSound(t, image, each.format, round % SAMPLE === 0);
      }
      t.true(killed > 0);
    });
  });
}

/** Incompatible feature bit 0. */
function isDirtyQcow2(path: string): boolean {
  const head = readFileSync(path).subarray(0, 80);
  return head.readUInt32BE(4) >= 3 && (head.readUInt8(79) & 1) !== 0;
}
