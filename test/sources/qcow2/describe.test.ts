import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { ImageError } from '../../../lib/core/errors.ts';
import type { LayerInfo } from '../../../lib/sources/source.ts';
import { withTmpDir } from '../../support/tmp.ts';
import { open, qemuImg, withImage } from '../oracle.ts';

function create(file: string, ...args: string[]): void {
  qemuImg.expect(['create', '-q', '-f', 'qcow2', ...args, file, '1M']);
}

function describe(file: string): Promise<LayerInfo> {
  return withImage(file, ({ source }) => source.describe(), { metadataOnly: true, backing: false });
}

/** Overwrites a few bytes of a file. */
function poke(file: string, offset: number, hex: string): void {
  const bytes = readFileSync(file);
  Buffer.from(hex, 'hex').copy(bytes, offset);
  writeFileSync(file, bytes);
}

const VARIANTS = [
  'compat=0.10',
  'compat=1.1,lazy_refcounts=on',
  'refcount_bits=64',
  'extended_l2=on',
  'compression_type=zstd',
  'cluster_size=512',
  'data_file={directory}/data',
  'data_file={directory}/data,data_file_raw=on',
];

for (const options of VARIANTS) {
  test(`${options.replaceAll('{directory}/', '')} is described as qemu-img describes it`, async (t) => {
    if (qemuImg.missing(t)) return;
    await withTmpDir(async (directory) => {
      const file = join(directory, 'image.qcow2');
      create(file, '-o', options.replaceAll('{directory}', directory));
      const expected = JSON.parse(qemuImg.expect(['info', '--output=json', file]));
      const info = await describe(file);
      t.deepEqual(info.formatSpecific, expected['format-specific']);
      t.is(info.clusterSize, expected['cluster-size']);
      t.is(info.dirty, expected['dirty-flag']);
    });
  });
}

test('bitmaps are listed with their flags, and not where somebody neglected them', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const file = join(directory, 'image.qcow2');
    create(file);
    qemuImg.expect(['bitmap', '--add', file, 'first']);
    qemuImg.expect(['bitmap', '--add', '--disable', '-g', '4096', file, 'second']);
    const expected = () => JSON.parse(qemuImg.expect(['info', '--output=json', file]))['format-specific'];
    t.deepEqual((await describe(file)).formatSpecific, expected());
    t.is((expected().data.bitmaps as unknown[]).length, 2);
    poke(file, 88, '0000000000000000');
    t.deepEqual((await describe(file)).formatSpecific, expected());
  });
});

test('the dirty and corrupt bits are shown and do not hinder reading', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const file = join(directory, 'image.qcow2');
    create(file);
    poke(file, 72, '0000000000000003');
    const expected = JSON.parse(qemuImg.expect(['info', '--output=json', file]));
    const info = await describe(file);
    t.true(info.dirty);
    t.deepEqual(info.formatSpecific, expected['format-specific']);
    await withImage(file, async ({ source }) => t.notThrowsAsync(source.read(0, Buffer.alloc(512))));
    const refused = await t.throwsAsync(open(file, { writable: true }), { instanceOf: ImageError });
    t.regex(refused.message, /Image is corrupt; cannot be opened read\/write/);
  });
});

test('unknown incompatible features are refused in qemu-img words, by name where the image has one', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const file = join(directory, 'image.qcow2');
    create(file);
    const check = async () => {
      const error = await t.throwsAsync(open(file), { instanceOf: ImageError });
      t.is(error.kind, 'unsupported');
      t.is(`qemu-img: ${error.message}\n`, qemuImg.run(['info', file]).stderr);
    };
    poke(file, 72, '8000000000000020');
    await check();
    // The table's entry of the bitmaps bit now names bit 5 of the incompatible features.
    const name = readFileSync(file).indexOf('bitmaps');
    poke(file, name - 2, `0005${Buffer.from('novelty\0').toString('hex')}`);
    await check();
    poke(file, 72, '0000000000000020');
    await check();
  });
});

test('an image encrypted with the old AES method is described without its key, but not read', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const file = join(directory, 'image.qcow2');
    const secret = ['--object', 'secret,id=key,data=abc', '-o', 'encrypt.format=aes,encrypt.key-secret=key'];
    create(file, ...secret);
    const info = await describe(file);
    t.true(info.encrypted);
    t.deepEqual(info.formatSpecific, JSON.parse(qemuImg.expect(['info', '--output=json', file]))['format-specific']);
    const error = await t.throwsAsync(open(file), { instanceOf: ImageError });
    t.is(error.kind, 'invalid');
  });
});

test('an image whose data file is missing can be described', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const file = join(directory, 'image.qcow2');
    create(file, '-o', `data_file=${join(directory, 'data')}`);
    qemuImg.expect(['create', '-q', '-f', 'raw', join(directory, 'other'), '1M']);
    writeFileSync(join(directory, 'data'), '');
    t.is((await describe(file)).formatSpecific?.data['data-file'], join(directory, 'data'));
    const node = `driver=qcow2,file.filename=${file},data-file.filename=${join(directory, 'other')}`;
    const image = await open(node, { imageOpts: true });
    await image.source.read(0, Buffer.alloc(4096));
    await image.close();
  });
});

/** The head of a LUKS1 header with one key slot in use: nothing here can be decrypted. */
function luksHeader(): Buffer {
  const header = Buffer.alloc(592);
  header.write('LUKS\xba\xbe\x00\x01', 0, 'latin1');
  header.write('aes', 8);
  header.write('xts-plain64', 40);
  header.write('sha256', 72);
  header.writeUInt32BE(4040, 104);
  header.writeUInt32BE(64, 108);
  header.writeUInt32BE(1234, 164);
  header.write('01234567-89ab-cdef-0123-456789abcdef', 168);
  for (let slot = 0; slot < 8; slot += 1) {
    const at = 208 + slot * 48;
    header.writeUInt32BE(slot === 2 ? 0x00ac71f3 : 0x0000dead, at);
    header.writeUInt32BE(slot === 2 ? 5678 : 0, at + 4);
    header.writeUInt32BE(8 + slot * 504, at + 40);
    header.writeUInt32BE(4000, at + 44);
  }
  return header;
}

test('an image encrypted with LUKS is described with its key slots', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const file = join(directory, 'image.qcow2');
    create(file);
    // Made by hand, since qemu-img measures the machine's speed to make one.
    const bytes = Buffer.concat([readFileSync(file), Buffer.alloc(4 * 1024 * 1024)]);
    const at = Math.ceil(readFileSync(file).length / 65536) * 65536;
    luksHeader().copy(bytes, at);
    bytes.writeUInt32BE(2, 32);
    const pointer = Buffer.alloc(24);
    pointer.writeUInt32BE(0x0537be77, 0);
    pointer.writeUInt32BE(16, 4);
    pointer.writeUInt32BE(at, 12);
    pointer.writeUInt32BE(2068480, 20);
    pointer.copy(bytes, bytes.readUInt32BE(100));
    bytes.fill(0, bytes.readUInt32BE(100) + 24, bytes.readUInt32BE(100) + 32);
    writeFileSync(file, bytes);
    const expected = JSON.parse(qemuImg.expect(['info', '--output=json', file]));
    const info = await describe(file);
    t.deepEqual(info.formatSpecific, expected['format-specific']);
    t.true(info.encrypted);
  });
});
