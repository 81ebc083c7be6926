import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { createImage } from '../../lib/formats/create.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';

const qemuImg = tool('qemu-img');

interface Case {
  options: Readonly<Record<string, string>>;
  size?: string;
  backing?: { filename: string; format: string | null; unsafe?: boolean };
}

const base = { filename: 'base.raw', format: 'raw' };
const CASES: readonly Case[] = [
  { options: {} },
  { options: { compat: '0.10' } },
  { options: { compat: 'v2', lazy_refcounts: 'on' } },
  { options: { compat: '0.9' } },
  { options: { compat: 'v2', refcount_bits: '8' } },
  { options: { refcount_bits: '3' } },
  { options: { refcount_bits: '128' } },
  { options: { refcount_bits: 'abc' } },
  { options: { cluster_size: '256' } },
  { options: { cluster_size: '1000' } },
  { options: { cluster_size: '4M' } },
  { options: { cluster_size: 'abc' } },
  { options: { extended_l2: 'on', cluster_size: '8k' } },
  { options: { extended_l2: 'on', compat: 'v2' } },
  { options: { compression_type: 'zstd', compat: 'v2' } },
  { options: { compression_type: 'foo' } },
  { options: { preallocation: 'foo' } },
  { options: { data_file_raw: 'on' } },
  { options: { data_file: 'd.raw', compat: 'v2' } },
  { options: { data_file: 'd.raw', data_file_raw: 'on' }, backing: base },
  { options: { preallocation: 'metadata' }, backing: base },
  { options: { preallocation: 'metadata', extended_l2: 'on' }, backing: base },
  { options: { cluster_size: '512' }, size: '1T' },
  { options: { size: '3M' }, size: '3M' },
  { options: { size: '3M' }, size: '' },
  { options: {}, size: '' },
  { options: {}, size: '', backing: base },
  { options: {}, backing: { filename: 'missing.raw', format: 'raw' } },
  { options: {}, backing: { filename: 'missing.raw', format: 'raw', unsafe: true } },
  { options: {}, backing: { filename: 'missing.raw', format: null, unsafe: true } },
  { options: {}, backing: { filename: 'base.raw', format: null } },
  { options: { backing_fmt: 'raw' } },
  { options: { foo: 'bar' } },
  { options: { lazy_refcounts: 'foo' } },
  { options: { lazy_refcounts: 'yes', nocow: 'off', extent_size_hint: '1M', refcount_bits: '0x10' } },
];

for (const { options, size = '10M', backing } of CASES) {
  const given = [JSON.stringify(options), size, backing ? JSON.stringify(backing) : ''].join(' ');
  test.serial(`create with ${given} says and makes what qemu-img does`, async (t) => {
    if (qemuImg.missing(t)) return;
    await withTmpDir(async (directory) => {
      const cwd = process.cwd();
      process.chdir(directory);
      try {
        writeFileSync('base.raw', Buffer.alloc(2 * 1024 * 1024, 1));
        const args = ['create', '-f', 'qcow2'];
        for (const [key, value] of Object.entries(options)) args.push('-o', `${key}=${value}`);
        if (backing) args.push('-b', backing.filename);
        if (backing?.format) args.push('-F', backing.format);
        if (backing?.unsafe) args.push('-u');
        const theirs = qemuImg.run([...args, 'x.qcow2', ...(size === '' ? [] : [size])]);
        const info = theirs.status === 0 ? qemuImg.expect(['info', 'x.qcow2']) : '';
        const ours = await create({ options, size, backing });
        const theySaid = theirs.text + theirs.stderr.replaceAll('qemu-img: x.qcow2: ', '').replaceAll('qemu-img: ', '');
        t.is(ours.said.trim(), theySaid.trim());
        if (theirs.status !== 0) return;
        t.is(
          withoutSizeOnDisk(qemuImg.expect(['info', 'y.qcow2']).replaceAll('y.qcow2', 'x.qcow2')),
          withoutSizeOnDisk(info),
        );
        if (!backing?.unsafe) t.regex(qemuImg.expect(['check', 'y.qcow2']), /No errors/);
      } finally {
        process.chdir(cwd);
      }
    });
  });
}

function withoutSizeOnDisk(info: string): string {
  return info.replace(/disk size: .*/, '');
}

async function create({ options, size, backing }: Required<Pick<Case, 'options' | 'size'>> & Pick<Case, 'backing'>) {
  const said: string[] = [];
  const bytes: Readonly<Record<string, number | null>> = {
    '': null,
    '10M': 10 * 2 ** 20,
    '3M': 3 * 2 ** 20,
    '1T': 2 ** 40,
  };
  try {
    const target = await createImage({
      filename: 'y.qcow2',
      format: 'qcow2',
      size: bytes[size],
      options,
      backing,
      onFormatting: (line) => said.push(`${line.replace('y.qcow2', 'x.qcow2')}\n`),
    });
    await target.close();
  } catch (error) {
    said.push(`${(error as Error).message}\n`);
  }
  return { said: said.join('') };
}

test('options that make no sense leave a file as it was', async (t) => {
  await withTmpDir(async (directory) => {
    const filename = join(directory, 'x.qcow2');
    writeFileSync(filename, 'precious');
    const request = { filename, format: 'qcow2', size: 1024, options: { cluster_size: '1000' } };
    await t.throwsAsync(createImage(request), { name: 'ImageError' });
    t.is(readFileSync(filename, 'utf8'), 'precious');
    const other = join(directory, 'y.qcow2');
    await t.throwsAsync(createImage({ ...request, filename: other }), { name: 'ImageError' });
    t.false(existsSync(other));
  });
});

test('an encrypted image without a passphrase is refused in one clear sentence', async (t) => {
  await withTmpDir(async (directory) => {
    for (const options of [{ encryption: 'on' }, { 'encrypt.format': 'luks' }]) {
      await t.throwsAsync(
        createImage({
          filename: join(directory, 'x.qcow2'),
          format: 'qcow2',
          size: 1024,
          options: { ...options } as never,
        }),
        { name: 'ImageError', message: "Parameter 'encrypt.key-secret' is required for cipher" },
      );
    }
  });
});
