import { mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import test, { type ExecutionContext } from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { drivers } from '../../lib/formats/index.ts';
import { openTarget } from '../../lib/formats/open-target.ts';
import { convert, map, open } from '../../lib/index.ts';
import { info } from '../../lib/pipelines/info.ts';
import { openImage } from '../../lib/sources/open.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { makeAppliance, makeTar, ovfOf } from '../support/appliance.ts';
import { Random } from '../support/model.ts';
import { fieldMutations, randomMutations, truncations } from '../support/mutate.ts';
import { sparseDisk } from '../support/sparse-disk.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';

const qemuImg = tool('qemu-img');
const tools = [qemuImg, tool('tar')];
const SIZE = 700 * 512;

interface Place {
  directory: string;
  disk: Buffer;
  at(name: string): string;
}

/** A directory with `disk.raw` and the same disk in other formats. */
async function within(t: ExecutionContext, use: (place: Place) => Promise<void>): Promise<void> {
  if (tools.some((each) => each.missing(t))) return;
  await withTmpDir(async (directory) => {
    const disk = sparseDisk(SIZE, 8);
    const at = (name: string) => join(directory, name);
    writeFileSync(at('disk.raw'), disk);
    const make = (format: string, name: string, ...options: string[]) =>
      qemuImg.expect(['convert', '-f', 'raw', '-O', format, ...options, at('disk.raw'), at(name)]);
    make('qcow2', 'disk.qcow2');
    make('vmdk', 'disk 1.vmdk', '-o', 'subformat=streamOptimized');
    await use({ directory, disk, at });
  });
}

async function contents(name: string, format: string | null = null): Promise<Buffer> {
  const image = await open(name, { format });
  try {
    const found = Buffer.alloc(image.size);
    await image.read(0, found);
    return found;
  } finally {
    await image.close();
  }
}

for (const format of ['ustar', 'gnu', 'posix', 'oldgnu']) {
  test(`the disk in a ${format} archive is read as if it lay alone, under a long name too`, async (t) => {
    await within(t, async ({ directory, disk, at }) => {
      const folder = 'd'.repeat(90);
      const long = `${folder}/${'n'.repeat(90)}ü.qcow2`;
      mkdirSync(at(folder));
      writeFileSync(at(long), readFileSync(at('disk.qcow2')));
      writeFileSync(at('README'), 'nothing of interest\n');
      for (const name of ['disk.qcow2', long]) {
        const archive = makeTar(directory, 'x.tar', ['README', name, 'README'], format);
        t.true((await contents(archive)).equals(disk), name);
        t.true((await contents(`${archive}#${name}`)).equals(disk), name);
        const [described] = await info({ image: { filename: archive } });
        t.is(described.format, 'qcow2');
        t.is(described.virtualSize, SIZE);
      }
    });
  });
}

test('an appliance is its disk, whose name the descriptor may write as a URI', async (t) => {
  await within(t, async ({ directory, disk, at }) => {
    const archive = makeAppliance(directory, 'a b.ova', ['disk 1.vmdk']);
    t.true((await contents(archive)).equals(disk));
    t.true((await contents(archive, 'vmdk')).equals(disk), 'with the format that is inside');
    await convert({ inputs: [{ filename: archive }], output: { filename: at('out') }, outputFormat: 'qcow2' });
    t.is(qemuImg.run(['compare', '-f', 'raw', '-F', 'qcow2', at('disk.raw'), at('out')]).status, 0);
  });
});

test('of several disks one must be named, and the error names them in the order of the descriptor', async (t) => {
  await within(t, async ({ directory, disk }) => {
    const archive = makeAppliance(directory, 'two.ova', ['disk 1.vmdk', 'disk.qcow2']);
    const error = await t.throwsAsync<ImageError>(contents(archive), { instanceOf: ImageError });
    t.true(error?.message.includes(`'${archive}#disk 1.vmdk', '${archive}#disk.qcow2'`), error?.message);
    t.true((await contents(`${archive}#disk.qcow2`)).equals(disk));
    t.true((await contents(`${archive}#./disk 1.vmdk`)).equals(disk));
    await t.throwsAsync(contents(`${archive}#disk 2.vmdk`), {
      instanceOf: ImageError,
      message: /has no 'disk 2.vmdk'/,
    });
    const bare = makeTar(directory, 'two.tar', ['disk.qcow2', 'disk.raw', 'disk 1.vmdk']);
    await t.throwsAsync(contents(bare), { instanceOf: ImageError, message: /holds 2 disks/ });
    t.true((await contents(`${bare}#disk.raw`, 'raw')).equals(disk), 'a raw disk, by its name');
  });
});

test('an archive is the bytes of a raw disk where the format says so, or where nothing in it is an image', async (t) => {
  await within(t, async ({ directory, at }) => {
    const archive = makeTar(directory, 'x.tar', ['disk.qcow2']);
    const bytes = readFileSync(archive);
    t.true((await contents(archive, 'raw')).equals(bytes));
    // A tape: an archive on a raw disk, and what stood there before behind it.
    writeFileSync(at('README'), 'nothing of interest\n');
    const tape = Buffer.concat([readFileSync(makeTar(directory, 'y.tar', ['README'])), Buffer.alloc(4096, 0xa5)]);
    writeFileSync(at('tape'), tape);
    t.true((await contents(at('tape'))).equals(tape));
    writeFileSync(at('broken'), Buffer.concat([tape.subarray(0, 1024), Buffer.alloc(4096, 0xa5)]));
    t.is((await contents(at('broken'))).length, 5120);
  });
});

test('a file whose name has a # is that file', async (t) => {
  await within(t, async ({ directory, at, disk }) => {
    const archive = makeTar(directory, 'x.tar', ['disk.qcow2']);
    const other = Buffer.alloc(4096, 3);
    writeFileSync(`${archive}#disk.qcow2`, other);
    t.true((await contents(`${archive}#disk.qcow2`)).equals(other));
    const second = makeTar(directory, 'a#b.tar', ['disk.qcow2']);
    t.true((await contents(`${second}#disk.qcow2`)).equals(disk));
    await t.throwsAsync(contents(at('no#such')), { message: /Could not open '.*no#such': No such file or directory$/ });
    await t.throwsAsync(contents(at('disk.raw#x')), { message: /is no tar archive, so it has no 'x'/ });
  });
});

test('a packed disk is unpacked; one in pieces or without its holes is refused', async (t) => {
  await within(t, async ({ directory, at, disk }) => {
    writeFileSync(at('disk.qcow2.gz'), gzipSync(readFileSync(at('disk.qcow2'))));
    const attributes = 'ovf:compression="gzip"';
    writeFileSync(at('z.ovf'), ovfOf([{ href: 'disk.qcow2.gz', attributes }]));
    t.true((await contents(makeTar(directory, 'z.ova', ['z.ovf', 'disk.qcow2.gz']))).equals(disk));
    writeFileSync(at('p.ovf'), ovfOf([{ href: 'disk', attributes: 'ovf:chunkSize="1000"' }]));
    await t.throwsAsync(contents(makeTar(directory, 'p.ova', ['p.ovf', 'disk.qcow2'])), { message: /cut into pieces/ });
    for (const format of ['gnu', 'posix']) {
      tool('cp').expect(['--sparse=never', at('disk.qcow2'), at('dense.qcow2')]);
      tool('cp').expect(['--sparse=always', at('disk.raw'), at('holes.raw')]);
      tool('tar').expect([`--format=${format}`, '-Scf', at('s.tar'), 'holes.raw', 'dense.qcow2'], { cwd: directory });
      await t.throwsAsync(contents(`${at('s.tar')}#holes.raw`), { message: /without its holes/ }, format);
      t.true((await contents(`${at('s.tar')}#dense.qcow2`)).equals(disk), format);
      tool('tar').expect([`--format=${format}`, '-Scf', at('s.tar'), 'holes.raw'], { cwd: directory });
      await t.throwsAsync(contents(at('s.tar')), { message: /without its holes/ }, format);
    }
  });
});

test('a descriptor that lies is one clear error', async (t) => {
  await within(t, async ({ directory, at }) => {
    const texts: Record<string, [string, RegExp]> = {
      'no disk': [ovfOf([]), /The appliance has no disk/],
      'a file that is not there': [ovfOf([{ href: 'gone.vmdk' }]), /The archive has no 'gone.vmdk'/],
      'a file outside': [ovfOf([{ href: '../../etc/shadow' }]), /The archive has no '..\/..\/etc\/shadow'/],
      'no XML': ['what is this', /can't be read/],
      'an end too early': [ovfOf([{ href: 'disk.qcow2' }]).slice(0, 300), /can't be read/],
      'an unknown reference': [
        ovfOf([{ href: 'disk.qcow2' }]).replace('fileRef="file0"', 'fileRef="x"'),
        /which it does not name/,
      ],
      'a bomb of entities': [
        `<!DOCTYPE x [<!ENTITY a "${'y'.repeat(1000)}"><!ENTITY b "&a;&a;&a;&a;">]><Envelope>&b;</Envelope>`,
        /can't be read/,
      ],
    };
    for (const [what, [text, message]] of Object.entries(texts)) {
      writeFileSync(at('x.ovf'), text);
      const archive = makeTar(directory, 'x.ova', ['x.ovf', 'disk.qcow2']);
      await t.throwsAsync(contents(archive), { instanceOf: ImageError, message }, what);
    }
  });
});

test('only what is read is looked into: an archive to write to, or a backing file, is a raw disk', async (t) => {
  await within(t, async ({ directory, at }) => {
    const archive = makeTar(directory, 'x.tar', ['disk.qcow2']);
    const { size } = statSync(archive);
    const target = await openTarget(archive, {});
    t.is(target.format, 'raw');
    t.is(target.size, size);
    await target.close();
    qemuImg.expect(['create', '-q', '-f', 'qcow2', '-b', archive, '-F', 'raw', at('overlay')]);
    t.true((await contents(at('overlay'))).equals(readFileSync(archive)));
  });
});

test('map tells where in the archive the bytes lie', async (t) => {
  await within(t, async ({ directory, disk }) => {
    const archive = makeTar(directory, 'x.tar', ['disk.qcow2']);
    const bytes = readFileSync(archive);
    let compared = 0;
    for await (const { start, length, offset, data } of map({ image: { filename: archive } })) {
      if (!data || offset === undefined) continue;
      const inside = Math.min(length, disk.length - start);
      t.true(bytes.subarray(offset, offset + inside).equals(disk.subarray(start, start + inside)));
      compared += inside;
    }
    t.true(compared > 0);
  });
});

test('sizes of 8 GiB and more, and numbers that make no sense, are told apart', async (t) => {
  await within(t, async ({ directory }) => {
    const bytes = readFileSync(makeTar(directory, 'x.tar', ['disk.qcow2']));
    const size = bytes.readUIntBE(124 + 6, 6);
    t.true(size > 0);
    const length = statSync(join(directory, 'disk.qcow2')).size;
    // GNU's binary numbers.
    bytes.fill(0, 124, 136);
    bytes[124] = 0x80;
    bytes.writeUIntBE(length, 130, 6);
    t.is((await opened(resealed(bytes))).format, 'qcow2');
    bytes.fill(0xff, 124, 136);
    await t.throwsAsync(opened(resealed(bytes), 'x#disk.qcow2'), { instanceOf: ImageError });
  });
});

/** The header's checksum made right again. */
function resealed(bytes: Buffer): Buffer {
  bytes.write('        ', 148, 'latin1');
  const sum = bytes.subarray(0, 512).reduce((total, byte) => total + byte, 0);
  bytes.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
  return bytes;
}

async function opened(bytes: Buffer, name = 'x'): Promise<{ format: string }> {
  const [filename, member = null] = name.split('#');
  const storage = memoryStorage(filename, bytes);
  const image = await openImage(filename, { drivers: drivers(), storage, containers: true, member });
  const { format } = image.source;
  await image.source.read(0, Buffer.alloc(Math.min(4096, image.source.size)));
  await image.close();
  return { format };
}

test('archives spoilt by the thousand give an image or a clear error', async (t) => {
  await within(t, async ({ directory }) => {
    writeFileSync(join(directory, 'small.raw'), Buffer.alloc(512, 1));
    qemuImg.expect([
      'convert',
      '-f',
      'raw',
      '-O',
      'qcow2',
      '-o',
      'cluster_size=512',
      join(directory, 'small.raw'),
      join(directory, 's.qcow2'),
    ]);
    makeAppliance(directory, 'x.ova', ['s.qcow2']);
    const bytes = readFileSync(makeTar(directory, 'x.ova', ['x.ovf', 's.qcow2'], 'posix'));
    const headers = [0, 512, 1024].filter((at) => bytes.toString('latin1', at + 257, at + 262) === 'ustar');
    t.true(headers.length > 0);
    const fields = headers.flatMap((at) => [
      { name: `size at ${at}`, offset: at + 124, width: 8 as const },
      { name: `magic at ${at}`, offset: at + 257, width: 4 as const },
      { name: `type at ${at}`, offset: at + 156, width: 1 as const },
    ]);
    const regions = [{ name: 'archive', offset: 0, length: Math.min(bytes.length, 6144) }];
    const mutations = [
      ...fieldMutations(bytes, fields),
      ...randomMutations(new Random(5), regions, 400),
      ...truncations(Array.from({ length: 100 }, (_, index) => index * 61)),
    ];
    let refused = 0;
    for (const { name, apply } of mutations) {
      for (const seal of [false, true]) {
        const spoilt = apply(Buffer.from(bytes));
        if (seal && spoilt.length >= 512) resealed(spoilt);
        for (const member of ['x', 'x#s.qcow2']) {
          const error = await opened(spoilt, member).then(
            () => null,
            (reason) => reason,
          );
          if (error === null) continue;
          refused += 1;
          if (!(error instanceof ImageError)) t.fail(`${name}: ${error.stack}`);
        }
      }
    }
    t.true(refused > 300);
  });
});
