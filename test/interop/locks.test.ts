import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import test, { type ExecutionContext } from 'ava';
import { openTarget } from '../../lib/formats/open-target.ts';
import { open } from '../../lib/images.ts';
import { lockCalls } from '../../lib/syscalls/locks.ts';
import { bundleProgram, type Program } from '../support/program.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { lines } from '../support/words.ts';

const qemuImg = tool('qemu-img');
const qemuIo = tool('qemu-io');
let program: Program;

test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program.remove());

const IMAGES = lines(`
  create -q -f qcow2 base 4M
  create -q -f qcow2 -b base -F qcow2 middle
  create -q -f qcow2 -b middle -F qcow2 top
  create -q -f raw raw 4M
  create -q -f qcow2 -b raw -F raw onraw
  create -q -f qcow2 other 4M
  create -q -f qcow2 -o data_file=data outside 4M
  create -q -f vmdk -o subformat=twoGbMaxExtentSparse parts 3G
  create -q -f vmdk -o subformat=monolithicFlat flat 4M
`);

async function missing(t: ExecutionContext): Promise<boolean> {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return true;
  if ((await lockCalls()) !== null) return false;
  t.log('skipped: no locks here');
  t.pass();
  return true;
}

/** Calls `use` with a directory of images. */
async function withImages(t: ExecutionContext, use: (directory: string) => Promise<void>): Promise<void> {
  if (await missing(t)) return;
  await withTmpDir(async (directory) => {
    for (const line of IMAGES) qemuImg.expect(line.split(' '), { cwd: directory });
    await use(directory);
  });
}

/** Calls `use` while a process of another program has the image open. */
async function whileOpen(
  command: readonly string[],
  image: string,
  use: (holder: ChildProcess) => Promise<void> | void,
): Promise<void> {
  const [name, ...args] = command;
  const holder = spawn(name, [...args, image], { stdio: ['pipe', 'ignore', 'ignore'], cwd: dirname(image) });
  const ended = once(holder, 'exit');
  try {
    const mark = `:${statSync(image).ino} `;
    while (!readFileSync('/proc/locks', 'utf8').includes(mark)) {
      if (holder.exitCode !== null) throw new Error(`${command.join(' ')} ended`);
      await sleep(5);
    }
    await use(holder);
  } finally {
    holder.kill('SIGKILL');
    await ended;
  }
}

/** This program, busy for long and yet at rest, with the image that is named behind these words. */
function writingSlowly(directory: string, format: string, ...options: readonly string[]): string[] {
  const input = join(directory, 'much');
  writeFileSync(input, Buffer.alloc(4 * 1024 * 1024, 1));
  const args = ['convert', ...options, '-f', 'raw', '-r', '64k', '-O', format, input];
  return [process.execPath, program.path, ...args];
}

/** Both are run while the image is in use, and say the same. */
function sameWords(t: ExecutionContext, directory: string, line: string): void {
  const [ours, theirs] = [program, qemuImg].map((each) => each.run(line.split(' '), { cwd: directory }));
  t.is(ours.stderr, theirs.stderr, line);
  t.is(ours.status, theirs.status, line);
  t.not(theirs.status, 0, line);
}

const WHILE_WRITTEN = `
  info middle
  info --backing-chain top
  check top
  check -r all middle
  map top
  compare -q base middle
  snapshot -l middle
  snapshot -c s middle
  resize middle +1M
  amend -o lazy_refcounts=on middle
  bitmap --add middle b
  bench -c 1 -w middle
  create -q -f qcow2 middle 1M
  convert -O qcow2 base middle
  convert -n -O qcow2 base middle
  convert top new
  dd if=base of=middle
  commit middle
  commit top
  rebase -u -b base -F qcow2 middle
  rebase -b middle -F qcow2 other
`;

test('what a running QEMU writes is left alone, in the words of qemu-img', async (t) => {
  await withImages(t, async (directory) => {
    const image = join(directory, 'middle');
    const before = readFileSync(image);
    await whileOpen(['qemu-io', '-f', 'qcow2'], image, () => {
      for (const line of lines(WHILE_WRITTEN)) sameWords(t, directory, line);
    });
    t.true(readFileSync(image).equals(before));
  });
});

test('-U reads what is being written', async (t) => {
  await withImages(t, async (directory) => {
    await whileOpen(['qemu-io', '-f', 'qcow2'], join(directory, 'middle'), () => {
      const verbs = lines(`
        info -U middle
        info -U --backing-chain top
        check -U top
        map -U top
        compare -U base middle
        measure -U -O qcow2 middle
        snapshot -U -l middle
        bench -U -c 1 middle
        convert -U top new
        dd -U if=middle of=new
        rebase -U -b middle -F qcow2 other
        create -q -f qcow2 -b middle -F qcow2 above
      `);
      for (const line of verbs) {
        const { status, stderr } = program.run(line.split(' '), { cwd: directory });
        t.is(status, 0, `${line}: ${stderr}`);
      }
      const shared = 'driver=qcow2,file.filename=top,force-share=on';
      t.is(program.run(['map', '--image-opts', shared], { cwd: directory }).status, 0);
      const unlocked = 'driver=qcow2,file.filename=middle,file.locking=off';
      t.is(program.run(['map', '--image-opts', unlocked], { cwd: directory }).status, 0);
      sameWords(t, directory, `resize --image-opts ${shared} +1M`);
    });
  });
});

test('what others read is not written, and what they rely on not cut', async (t) => {
  await withImages(t, async (directory) => {
    const inUse = async (command: readonly string[], name: string, commands: string) => {
      await whileOpen(command, join(directory, name), () => {
        for (const line of lines(commands)) sameWords(t, directory, line);
      });
    };
    await inUse(
      ['qemu-io', '-r', '-f', 'qcow2'],
      'top',
      `
        commit top
        commit -b base top
        commit middle
        resize base +1M
        convert -O qcow2 other base
      `,
    );
    await inUse(
      ['qemu-io', '-f', 'raw'],
      'raw',
      `
        convert -f raw raw new
        convert onraw new
        create -q -f qcow2 raw 1M
      `,
    );
    await inUse(
      ['qemu-io', '-f', 'qcow2'],
      'outside',
      `
        map outside
        resize -f raw data +1M
        convert -f raw data new
        create -q -f raw data 1M
      `,
    );
    await inUse(['qemu-io', '-f', 'vmdk'], 'parts', 'check parts');
    await inUse(['qemu-io', '-f', 'raw'], 'flat-flat', 'convert flat new');
  });
});

test('a raw disk bears several writers, as with QEMU, and readers of them', async (t) => {
  await withImages(t, async (directory) => {
    await whileOpen(['qemu-io', '-f', 'raw'], join(directory, 'raw'), () => {
      for (const line of ['info raw', 'map raw', 'resize -f raw raw +1M', 'bench -w -f raw -c 1 raw', 'map onraw']) {
        t.is(program.run(line.split(' '), { cwd: directory }).status, 0, line);
      }
    });
  });
});

test('so does a LUKS container, but for its key slots', async (t) => {
  await withImages(t, async (directory) => {
    const run = (words: string) => [...words.split(' '), '--object', 'secret,id=s,data=x'];
    const image = join(directory, 'luks');
    qemuImg.expect(run(`create -q -f luks -o key-secret=s,iter-time=10 ${image} 1M`));
    const node = `driver=luks,key-secret=s,file.filename=${image}`;
    await whileOpen(['qemu-io', ...run('-f raw')], image, () => {
      for (const words of [`info ${image}`, `compare --image-opts ${node} ${node}`]) {
        t.is(program.run(run(words)).status, 0, words);
      }
      const amend = run(`amend -o state=active,new-secret=s,iter-time=10 --image-opts ${node}`);
      const [ours, theirs] = [program, qemuImg].map((each) => each.run(amend));
      t.is(ours.stderr, theirs.stderr);
      t.is(ours.status, 1);
    });
  });
});

test('QEMU leaves alone what is open here', async (t) => {
  await withImages(t, async (directory) => {
    const refuses = (args: readonly string[], what: string, file: string) => {
      const { status, stderr } = qemuImg.run(args, { cwd: directory });
      t.is(status, 1, args.join(' '));
      t.true(stderr.includes(`Failed to get ${what} lock\nIs another process using the image [${file}]?`), stderr);
    };
    const target = await openTarget(join(directory, 'top'));
    refuses(['info', 'top'], 'shared "write"', 'top');
    refuses(['resize', 'top', '+1M'], '"write"', 'top');
    refuses(['resize', 'middle', '+1M'], '"write"', 'middle');
    qemuImg.expect(['info', '-U', 'top'], { cwd: directory });
    await target.close();
    const image = await open(join(directory, 'top'));
    qemuImg.expect(['map', 'top'], { cwd: directory });
    refuses(['snapshot', '-c', 's', 'base'], '"write"', 'base');
    await image.close();
    qemuImg.expect(['snapshot', '-c', 's', 'base'], { cwd: directory });
  });
});

test('images in several files are locked file by file, however often each is opened here', async (t) => {
  await withImages(t, async (directory) => {
    const files = { outside: ['data'], parts: ['parts-s001', 'parts-s002'], flat: ['flat-flat'] };
    for (const [name, others] of Object.entries(files)) {
      const target = await openTarget(join(directory, name));
      await target.write(0, Buffer.alloc(65_536, 7));
      for (const other of others) {
        t.is(qemuImg.run(['convert', '-f', 'raw', other, 'new'], { cwd: directory }).status, 1, other);
      }
      await target.close();
      for (const other of others) qemuImg.expect(['convert', '-f', 'raw', other, 'new'], { cwd: directory });
      qemuIo.expect(['-r', '-c', 'read -P 7 0 64k', name], { cwd: directory });
    }
  });
});

test('two of this program exclude each other, until one is killed', async (t) => {
  await withImages(t, async (directory) => {
    const image = join(directory, 'other');
    await whileOpen(writingSlowly(directory, 'qcow2', '-n'), image, async (holder) => {
      const refused = program.run(['snapshot', '-c', 's', image]);
      t.is(refused.status, 1);
      t.true(refused.stderr.startsWith(`qemu-img: Could not open '${image}': Failed to get "write" lock\n`));
      holder.kill('SIGKILL');
      await once(holder, 'exit');
      t.is(program.run(['snapshot', '-c', 's', image]).status, 0);
    });
  });
});

test('an image that is being made is in use, and one that is in use is not made anew', async (t) => {
  await withImages(t, async (directory) => {
    const image = join(directory, 'other');
    const before = statSync(image);
    await whileOpen(writingSlowly(directory, 'qcow2', '-n'), image, () => {
      for (const format of ['qcow2', 'raw', 'vmdk']) {
        const args = ['convert', '-O', format, join(directory, 'raw'), image];
        t.regex(program.run(args).stderr, /: error while converting \w+: Failed to get "write" lock\n/);
      }
      t.is(statSync(image).ino, before.ino);
    });
    qemuImg.expect(['check', '-q', image]);
    for (const format of ['raw', 'qcow2']) {
      await whileOpen(writingSlowly(directory, format), image, () => {
        t.is(qemuImg.run(['convert', '-O', format, join(directory, 'base'), image]).status, 1, format);
        t.is(program.run(['convert', '-O', format, join(directory, 'base'), image]).status, 1, format);
      });
    }
  });
});
