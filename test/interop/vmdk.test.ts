import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { createImage } from '../../lib/formats/create.ts';
import { openTarget } from '../../lib/formats/open-target.ts';
import { compare, convert } from '../../lib/index.ts';
import { info } from '../../lib/pipelines/info.ts';
import { mixedDisk } from '../support/images.ts';
import { pattern, Random } from '../support/model.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { liveTogether, type SharedLife, writeWithOurs, writeWithQemu } from './shared-life.ts';

const qemuImg = tool('qemu-img');
const qemuIo = tool('qemu-io');
const KIB = 1024;
const GIB = 1024 * 1024 * KIB;
const SUBFORMATS = ['monolithicSparse', 'monolithicFlat', 'twoGbMaxExtentSparse', 'twoGbMaxExtentFlat'];

/** All files of a directory, by name, with the content IDs blanked. */
function filesOf(directory: string): Record<string, string> {
  const files: Record<string, string> = {};
  for (const name of readdirSync(directory).sort()) {
    const text = readFileSync(join(directory, name), 'latin1');
    files[name] = text.includes('CID=') ? withoutCid(text) : text;
  }
  return files;
}

/** QEMU writes fewer digits where it can, so that the padding begins earlier. */
function withoutCid(text: string): string {
  const [line, digits] = /^CID=([0-9a-f]+)$/m.exec(text) ?? ['', ''];
  const rest = text.replace(line, 'CID');
  const end = rest.indexOf('\0', rest.indexOf('ddb.toolsVersion'));
  return end < 0 ? rest : rest.slice(0, end) + rest.slice(end + 8 - digits.length);
}

const OPTIONS = [
  {},
  { adapter_type: 'lsilogic', toolsversion: '9' },
  { hwversion: '13', zeroed_grain: 'on' },
  { adapter_type: 'legacyESX', compat6: 'on' },
];

for (const subformat of SUBFORMATS) {
  test(`${subformat}: new images are what qemu-img makes, byte for byte, but for the CID`, async (t) => {
    if (qemuImg.missing(t)) return;
    const random = new Random(5);
    const others = Array.from({ length: 3 }, () => Math.floor(2 ** (9 + random.below(18))) + random.below(5000));
    const sizes = [1, 512, 1000, 32 * 1024 * KIB, 32 * 1024 * KIB + 512, ...others];
    if (subformat.startsWith('twoGb')) sizes.push(2 * GIB, 2 * GIB + 512);
    for (const [index, size] of sizes.filter((each) => !subformat.endsWith('Flat') || each < 4e6).entries()) {
      const { zeroed_grain, ...rest } = OPTIONS[index % OPTIONS.length] as Record<string, string>;
      const zero: Record<string, string> =
        zeroed_grain === undefined || subformat.endsWith('Flat') ? {} : { zeroed_grain };
      const options: Record<string, string> = { subformat, ...rest, ...zero };
      await withTmpDir(async (ours) => {
        await withTmpDir(async (theirs) => {
          await (
            await createImage({ filename: join(ours, 'x.vmdk'), format: 'vmdk', size, options, cache: 'unsafe' })
          ).close();
          const pairs = Object.entries(options).flatMap(([key, value]) => ['-o', `${key}=${value}`]);
          qemuImg.expect(['create', '-q', '-f', 'vmdk', ...pairs, join(theirs, 'x.vmdk'), String(size)]);
          t.deepEqual(filesOf(ours), filesOf(theirs), `${size} bytes, ${JSON.stringify(options)}`);
        });
      });
    }
  });

  test(`${subformat}: qemu-io and this library write to one image in turns`, async (t) => {
    if (qemuImg.missing(t) || qemuIo.missing(t)) return;
    await withTmpDir(async (directory) => {
      const path = join(directory, 'disk.vmdk');
      const size = 3 * 1024 * KIB + 512;
      const zero = subformat.endsWith('Sparse') ? ['-o', 'zeroed_grain=on'] : [];
      qemuImg.expect(['create', '-q', '-f', 'vmdk', '-o', `subformat=${subformat}`, ...zero, path, String(size)]);
      const model = Buffer.alloc(size);
      const life: SharedLife = { path, format: 'vmdk', model, random: new Random(6), longest: 300 * KIB };
      await t.notThrowsAsync(liveTogether(life, 3));
    });
  });
}

for (const subformat of ['monolithicSparse', 'twoGbMaxExtentSparse']) {
  test(`${subformat}: so they do over a backing file, of either's making`, async (t) => {
    if (qemuImg.missing(t) || qemuIo.missing(t)) return;
    await withTmpDir(async (directory) => {
      const at = (name: string) => join(directory, name);
      const size = 1024 * KIB;
      const below = mixedDisk(size);
      writeFileSync(at('below.raw'), below);
      qemuImg.expect(['convert', '-f', 'raw', '-O', 'vmdk', at('below.raw'), at('below.vmdk')]);
      const backing = { filename: at('below.vmdk'), format: 'vmdk' };
      const options = { subformat };
      await (
        await createImage({ filename: at('ours.vmdk'), format: 'vmdk', options, backing, cache: 'unsafe' })
      ).close();
      const theirs = ['-o', `subformat=${subformat}`, '-b', at('below.vmdk'), '-F', 'vmdk', at('theirs.vmdk')];
      qemuImg.expect(['create', '-q', '-f', 'vmdk', ...theirs]);
      for (const name of ['ours.vmdk', 'theirs.vmdk']) {
        const model = Buffer.from(below);
        const life: SharedLife = { path: at(name), format: 'vmdk', model, random: new Random(7), longest: 200 * KIB };
        await t.notThrowsAsync(liveTogether(life, 2), name);
      }
    });
  });
}

test('streamOptimized: images of either are rewritten at random, and read by qemu-img', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const raw = join(directory, 'disk.raw');
    const size = 1024 * KIB + 1536;
    writeFileSync(raw, mixedDisk(size));
    const createOptions = { subformat: 'streamOptimized' };
    const [ours, theirs] = [join(directory, 'ours.vmdk'), join(directory, 'theirs.vmdk')];
    await convert({
      inputs: [{ filename: raw, format: 'raw' }],
      output: { filename: ours },
      outputFormat: 'vmdk',
      createOptions,
    });
    qemuImg.expect(['convert', '-f', 'raw', '-O', 'vmdk', '-o', 'subformat=streamOptimized', raw, theirs]);
    for (const path of [ours, theirs]) {
      const model = readFileSync(raw);
      qemuImg.expect(['compare', '-f', 'raw', '-F', 'vmdk', raw, path]);
      const life: SharedLife = { path, format: 'vmdk', model, random: new Random(8), longest: 200 * KIB };
      for (let round = 0; round < 3; round += 1) {
        await writeWithOurs(life);
        writeFileSync(`${path}.model`, model);
        qemuImg.expect(['compare', '-f', 'raw', '-F', 'vmdk', `${path}.model`, path]);
        qemuImg.expect(['check', '-f', 'vmdk', path]);
        const left = { filename: `${path}.model`, format: 'raw' };
        t.true((await compare({ left, right: { filename: path } })).identical);
      }
    }
  });
});

/** What a reader of a stream sees: the markers one behind the other, and where the grains lie. */
function streamOf(bytes: Buffer) {
  const markers: string[] = [];
  const grains: number[] = [];
  for (let at = 128 * 512; at < bytes.length; ) {
    const [value, size] = [Number(bytes.readBigUInt64LE(at)), bytes.readUInt32LE(at + 8)];
    if (size > 0) {
      grains.push(value);
      if (markers.at(-1) !== 'grains') markers.push('grains');
      at += Math.ceil((12 + size) / 512) * 512;
    } else {
      markers.push(['end', 'table', 'directory', 'footer'][bytes.readUInt32LE(at + 12)]);
      at += 512 + value * 512;
    }
  }
  return { markers, grains };
}

test('a new streamOptimized image is the stream that the specification describes', async (t) => {
  await withTmpDir(async (directory) => {
    const [raw, path] = [join(directory, 'disk.raw'), join(directory, 'disk.vmdk')];
    // Two grain tables' worth, with grains at both ends of the first.
    const disk = Buffer.alloc(40 * 1024 * KIB);
    mixedDisk(400 * KIB).copy(disk);
    pattern(100 * KIB, 3).copy(disk, 512 * 64 * KIB - 50 * KIB);
    writeFileSync(raw, disk);
    const createOptions = { subformat: 'streamOptimized' };
    await convert({
      inputs: [{ filename: raw, format: 'raw' }],
      output: { filename: path },
      outputFormat: 'vmdk',
      createOptions,
    });
    const { markers, grains } = streamOf(readFileSync(path));
    t.deepEqual(markers, ['grains', 'table', 'grains', 'table', 'directory', 'footer', 'end']);
    t.deepEqual(
      grains,
      [...grains].sort((a, b) => a - b),
    );
    t.is(new Set(grains).size, grains.length);
    t.true(grains.every((sector) => sector % 128 === 0));
  });
});

test('a disk past two tebibytes is made, written at its end, and read by both', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const path = join(directory, 'disk.vmdk');
    const size = 2 ** 42 + 512;
    const target = await createImage({ filename: path, format: 'vmdk', size, cache: 'unsafe' });
    await target.write(size - 1000, Buffer.alloc(1000, 7));
    await target.close();
    const output = qemuIo.expect(['-r', '-f', 'vmdk', '-c', `read -P 7 ${size - 1000} 1000`, path]);
    t.notRegex(output, /fail/);
    const commands = ['-c', `write -P 9 ${2 ** 41} 5k`, path];
    qemuIo.expect(['-f', 'vmdk', ...commands]);
    const again = await openTarget(path, { cache: 'unsafe' });
    const found = Buffer.alloc(6000);
    await again.source?.read(2 ** 41, found);
    await again.close();
    t.true(found.equals(Buffer.concat([Buffer.alloc(5 * KIB, 9), Buffer.alloc(6000 - 5 * KIB)])));
  });
});

test('a parent that was changed is told by its CID: what lies upon it cannot be read any more', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir(async (directory) => {
    const [below, top] = [join(directory, 'below.vmdk'), join(directory, 'top.vmdk')];
    await (await createImage({ filename: below, format: 'vmdk', size: 256 * KIB, cache: 'unsafe' })).close();
    qemuImg.expect(['create', '-q', '-f', 'vmdk', '-b', below, '-F', 'vmdk', top]);
    const input = [{ filename: top, format: 'vmdk' }];
    const output = { filename: join(directory, 'out.raw') };
    await t.notThrowsAsync(convert({ inputs: input, output }));
    writeWithQemu({
      path: below,
      format: 'vmdk',
      model: Buffer.alloc(256 * KIB),
      random: new Random(1),
      longest: 65536,
    });
    await t.throwsAsync(convert({ inputs: input, output }), { message: /is not the parent that .* was made upon/ });
    const chain = await info({ image: { filename: top }, backingChain: true });
    t.is(chain.length, 2);
    // The other way round: what this library writes, QEMU notices.
    const fresh = join(directory, 'fresh.vmdk');
    qemuImg.expect(['create', '-q', '-f', 'vmdk', '-b', below, '-F', 'vmdk', fresh]);
    const target = await openTarget(below, { cache: 'unsafe' });
    await target.write(0, Buffer.alloc(512, 1));
    await target.close();
    t.not(qemuImg.run(['convert', '-O', 'raw', fresh, output.filename]).status, 0);
  });
});
