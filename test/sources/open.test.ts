import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { ImageError } from '../../lib/core/errors.ts';
import { memoryStorage } from '../../lib/storage/memory.ts';
import { withTmpDir } from '../support/tmp.ts';
import { mapLines, open, qemuImg, qemuIo, qemuMap, qemuRaw, readAll, withImage } from './oracle.ts';

const SIZE = '4M';

function create(file: string, ...args: string[]): void {
  qemuImg.expect(['create', '-q', '-f', 'qcow2', ...args, file, SIZE]);
}

function write(file: string, ...commands: string[]): void {
  qemuIo.expect(['-f', 'qcow2', ...commands.flatMap((command) => ['-c', command]), file]);
}

test('a backing file is looked for beside the image that names it', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    mkdirSync(join(directory, 'sub'));
    create(join(directory, 'sub', 'base.qcow2'));
    write(join(directory, 'sub', 'base.qcow2'), 'write -P 5 1M 64k');
    const top = join(directory, 'top.qcow2');
    create(top, '-b', 'sub/base.qcow2', '-F', 'qcow2');
    await withImage(top, async ({ chain, backing }) => {
      t.is(backing?.filename, join(directory, 'sub', 'base.qcow2'));
      t.is(backing?.source.format, 'qcow2');
      t.true((await readAll(chain)).equals(qemuRaw(directory, [top])));
      t.deepEqual(await mapLines(chain), qemuMap([top]));
    });
  });
});

test('a backing file without a format is probed', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const base = join(directory, 'base.qcow2');
    create(base);
    const top = join(directory, 'top.qcow2');
    create(top, '-b', base, '-F', 'qcow2');
    // As an unknown extension, the format's name means nothing.
    const bytes = readFileSync(top);
    bytes.writeUInt32BE(0x12345678, bytes.indexOf(Buffer.from('e2792aca', 'hex')));
    writeFileSync(top, bytes);
    await withImage(top, async ({ backing }) => t.is(backing?.driver.name, 'qcow2'));
  });
});

test('a backing file may be a json: description', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const base = join(directory, 'base.qcow2');
    create(base);
    write(base, 'write -P 5 1M 64k');
    const top = join(directory, 'top.qcow2');
    const json = `json:${JSON.stringify({ driver: 'qcow2', file: { driver: 'file', filename: base } })}`;
    create(top, '-b', json, '-F', 'qcow2');
    await withImage(top, async ({ chain }) => t.true((await readAll(chain)).equals(qemuRaw(directory, [top]))));
  });
});

test('what cannot be opened is told in qemu-img words, at every depth of the chain', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const at = (name: string) => join(directory, name);
    create(at('missing.qcow2'), '-u', '-b', 'nosuch.qcow2', '-F', 'qcow2');
    create(at('deeper.qcow2'), '-u', '-b', 'missing.qcow2', '-F', 'qcow2');
    create(at('protocol.qcow2'), '-u', '-b', 'foo:bar', '-F', 'qcow2');
    writeFileSync(at('raw'), Buffer.alloc(1024));
    create(at('notqcow2.qcow2'), '-u', '-b', 'raw', '-F', 'qcow2');
    create(at('data.qcow2'), '-o', `data_file=${at('data.raw')}`);
    rmSync(at('data.raw'));
    for (const name of ['missing', 'deeper', 'protocol', 'notqcow2', 'data']) {
      const file = at(`${name}.qcow2`);
      const error = await t.throwsAsync(open(file), { instanceOf: ImageError });
      t.is(`qemu-img: ${error.message}\n`, qemuImg.run(['map', file]).stderr);
    }
    const wrong = await t.throwsAsync(open(at('raw'), { format: 'qcow2' }), { instanceOf: ImageError });
    t.is(`qemu-img: ${wrong.message}\n`, qemuImg.run(['map', '-f', 'qcow2', at('raw')]).stderr);
  });
});

test('a chain that comes back to itself is refused', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const [one, two] = ['one.qcow2', 'two.qcow2'].map((name) => join(directory, name));
    create(one, '-u', '-b', 'two.qcow2', '-F', 'qcow2');
    create(two, '-u', '-b', './one.qcow2', '-F', 'qcow2');
    const error = await t.throwsAsync(open(one), { instanceOf: ImageError });
    t.is(error.kind, 'corrupt');
    t.regex(error.message, /Backing file '.*one.qcow2' creates an infinite loop/);
    await withImage(one, async ({ backing }) => t.is(backing, null), { backing: false });
  });
});

test('a chain of a hundred images reads and maps', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const base = (depth: number) => `${String(depth).padStart(3, '0')}.qcow2`;
    const name = (depth: number) => join(directory, base(depth));
    create(name(0));
    write(name(0), 'write -P 1 0 256k', 'write -P 2 2M 64k');
    // One overlay is made, the others are copies over another backing file: a hundred starts of qemu-img are slow.
    create(name(1), '-u', '-b', base(0), '-F', 'qcow2');
    const overlay = readFileSync(name(1));
    const nameAt = overlay.indexOf(base(0));
    for (let depth = 2; depth < 100; depth += 1) {
      overlay.write(base(depth - 1), nameAt);
      writeFileSync(name(depth), overlay);
      if (depth % 30 === 0) write(name(depth), `write -P ${depth} ${depth * 16}k 16k`);
    }
    await withImage(name(99), async ({ chain }) => {
      t.deepEqual(await mapLines(chain), qemuMap([name(99)]));
      t.true((await readAll(chain)).equals(qemuRaw(directory, [name(99)])));
    });
  });
});

test('the gate can refuse what an image names, and nothing is opened then', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    create(join(directory, 'base.qcow2'));
    const top = join(directory, 'top.qcow2');
    create(top, '-b', 'base.qcow2', '-F', 'qcow2');
    const refused = await t.throwsAsync(open(top, { implicit: 'refuse' }), { instanceOf: ImageError });
    t.is(refused.kind, 'refused');
    const asked: string[][] = [];
    const gate = (reference: string, from: string) => asked.push([reference, from]) > 0;
    await withImage(top, async ({ backing }) => t.truthy(backing), { implicit: gate });
    t.deepEqual(asked, [['base.qcow2', top]]);
    const external = join(directory, 'external.qcow2');
    create(external, '-o', `data_file=${join(directory, 'data')}`);
    const data = await t.throwsAsync(open(external, { implicit: () => false }), { instanceOf: ImageError });
    t.is(data.kind, 'refused');
  });
});

test('a storage that was handed over is closed, also when opening fails', async (t) => {
  const storage = memoryStorage('piped', Buffer.alloc(4096));
  await t.throwsAsync(open('piped', { storage, format: 'qcow2' }), { instanceOf: ImageError });
  await t.throwsAsync(storage.read(0, Buffer.alloc(1)), { instanceOf: ImageError });
  const other = memoryStorage('piped', Buffer.alloc(4096, 7));
  const image = await open('piped', { storage: other });
  t.is(image.source.format, 'raw');
  await image.close();
  await t.throwsAsync(other.read(0, Buffer.alloc(1)), { instanceOf: ImageError });
});

test('the name of a protocol as format means the plain bytes', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const file = join(directory, 'image.qcow2');
    create(file);
    await withImage(file, async ({ source }) => t.is(source.format, 'file'), { format: 'file' });
    const image = await open(`driver=file,filename=${file}`, { imageOpts: true });
    t.is(image.source.format, 'file');
    await image.close();
  });
});
