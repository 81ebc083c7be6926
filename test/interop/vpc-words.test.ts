import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { renderInfo } from '../../lib/cli/render/info.ts';
import { ImageError } from '../../lib/core/errors.ts';

import { checksum } from '../../lib/layouts/vpc/index.ts';
import { info } from '../../lib/pipelines/info.ts';
import { bundleProgram, type Program } from '../support/program.ts';
import { withTmpDir } from '../support/tmp.ts';
import { tool } from '../support/tools.ts';
import { sameAsQemu } from './same-words.ts';

const qemuImg = tool('qemu-img');
const qemuIo = tool('qemu-io');

let program: Program;
test.before(async () => {
  program = await bundleProgram();
});
test.after.always(() => program?.remove());

const FOOTER = 512;
const TABLE = 1536;

test('what is said while images are made, and of options that make no sense, is what qemu-img says', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir((directory) => {
    const path = join(directory, 'new.vhd');
    const large = join(directory, 'large');
    writeFileSync(large, '');
    truncateSync(large, 2041 * 2 ** 30);
    const lines = [
      'create -f vpc -o help',
      'create -f vpc -o help {}',
      'create -f vpc {} 10M',
      'create -f vpc -o subformat=fixed {} 10M',
      'create -f vpc -o force_size,subformat=dynamic {} 10M',
      'create -f vpc -o force_size=off,preallocation=falloc,nocow=off,extent_size_hint=1M,subformat=fixed {} 10M',
      'create -f vpc -o preallocation=metadata {} 10M',
      'create -f vpc -o subformat=differencing {} 10M',
      'create -f vpc -o subformat= {} 10M',
      'create -f vpc -o force_size=maybe {} 10M',
      'create -f vpc -o cluster_size=4k {} 10M',
      'create -f vpc -o backing_file=x {} 10M',
      'create -f vpc -b x {} 10M',
      'create -f vpc {}',
      'create -f vpc {} 2040G',
      'create -f vpc {} 2190433320961',
      'create -f vpc -o force_size=on {} 2041G',
      'create -f vpc -o subformat=fixed {} 3T',
      'measure -O vpc --size 1G',
      'measure -O vpc -o force_size=on --size 1G',
      `convert -f raw -O vpc ${large} {}`,
      `dd -f raw -O vpc if=${large} of=${path}`,
      'convert -c -f raw -O vpc /dev/null {}',
      'convert -f raw -O vpc -o subformat=sparse /dev/null {}',
    ];
    for (const line of lines) sameAsQemu(t, program, line, path);
  });
});

test('what is said of images that are in order is what qemu-img says', async (t) => {
  if (qemuImg.missing(t) || qemuIo.missing(t)) return;
  await withTmpDir((directory) => {
    const run = { cwd: directory };
    for (const [name, options] of [
      ['dynamic', 'subformat=dynamic'],
      ['forced', 'force_size=on'],
      ['fixed', 'subformat=fixed'],
    ]) {
      qemuImg.expect(['create', '-q', '-f', 'vpc', '-o', options, name, '21M'], run);
      const writes = ['write -P 1 5M 1M', 'write -P 2 100k 10k', 'write -P 3 13M 3M', 'write -P 4 20M 1M'];
      qemuIo.expect(['-f', 'vpc', ...writes.flatMap((each) => ['-c', each]), name], run);
      const path = join(directory, name);
      const node = `driver=vpc,file.filename=${path}`;
      const lines = [
        'info {}',
        'info -f vpc {}',
        'info -f vpc --output=json {}',
        'map -f vpc {}',
        'map -f vpc --output=json {}',
        'map -f vpc --output=json -s 3M -l 7M {}',
        'measure -f vpc -O qcow2 {}',
      ];
      const others = [
        'measure -f vpc -O vpc {}',
        `info --image-opts ${node},force_size_calc=chs`,
        `info --image-opts ${node},force_size_calc=current_size`,
        `info --image-opts ${node},force_size_calc=size`,
        `info --image-opts ${node},force_size_calc=`,
        `info --image-opts ${node},force-size-calc=chs`,
        `info --image-opts ${node},size=1M`,
        `map --image-opts ${node},force_size_calc=current_size`,
      ];
      if (name === 'dynamic') lines.push(...others);
      if (name === 'forced') lines.splice(3);
      for (const line of lines) sameAsQemu(t, program, line, path);
    }
  });
});

interface Patch {
  /** In the footer (both copies), the dynamic header, or anywhere. */
  footer?: readonly [number, Buffer];
  header?: readonly [number, Buffer];
  bytes?: readonly [number, Buffer];
  /** Leaves the checksums as they were. */
  unsealed?: boolean;
  /** Makes the file this long. */
  length?: number;
}

const u32 = (value: number) => {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value >>> 0);
  return bytes;
};
const u64 = (value: bigint) => {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt.asUintN(64, value));
  return bytes;
};
const text = (value: string) => Buffer.from(value, 'latin1');

function patch(sound: Buffer, { footer, header, bytes, unsealed, length }: Patch): Buffer {
  const image = Buffer.from(sound);
  const last = image.length - FOOTER;
  for (const at of [0, last]) {
    footer?.[1].copy(image, at + footer[0]);
    if (!unsealed) image.writeUInt32BE(checksum(image.subarray(at, at + FOOTER), 64), at + 64);
  }
  header?.[1].copy(image, FOOTER + header[0]);
  if (!unsealed) image.writeUInt32BE(checksum(image.subarray(FOOTER, FOOTER + 1024), 36), FOOTER + 36);
  bytes?.[1].copy(image, bytes[0]);
  return length === undefined ? image : Buffer.concat([image, Buffer.alloc(1024)]).subarray(0, length);
}

const CREATORS = [
  'vpc ',
  'vs  ',
  'vbox',
  'vmw ',
  'qemu',
  'qem2',
  'win ',
  'd2v ',
  'tap\0',
  'CTXS',
  'wa\0\0',
  '\0\0\0\0',
];

/** What was 10 MiB. Half of these are damaged. */
function patches(end: number): Patch[] {
  const sizes = [0n, 511n, 1000n, 5n << 20n, 12n << 20n, 2190433320960n, 2190433321472n, 1n << 50n, -1n];
  return [
    ...CREATORS.map((creator) => ({ footer: [28, Buffer.concat([text(creator), Buffer.alloc(16)])] as const })),
    ...CREATORS.map((creator) => ({
      footer: [28, Buffer.concat([text(creator), Buffer.alloc(16), u64(6n << 20n)])] as const,
    })),
    ...sizes.map((size) => ({ footer: [28, Buffer.concat([text('win '), Buffer.alloc(16), u64(size)])] as const })),
    // The largest geometry: the size is in the field.
    { footer: [48, Buffer.concat([u64(7n << 20n), Buffer.from([0xff, 0xff, 16, 255])])] },
    { footer: [56, Buffer.from([0, 0])] },
    { footer: [90, Buffer.from([7])], unsealed: true },
    { bytes: [90, Buffer.from([7])], unsealed: true },
    { bytes: [end - FOOTER + 90, Buffer.from([7])], unsealed: true },
    { bytes: [0, text('x')] },
    ...[0, 1, 5].map((type) => ({ footer: [60, u32(type)] as const })),
    ...[0x400n, 1n << 62n, -1n].map((offset) => ({ footer: [16, u64(offset)] as const })),
    { header: [0, text('x')] },
    { header: [100, text('x')], unsealed: true },
    ...[0, 1, 511, 512, 1 << 20, 3 << 20, 4 << 20, 1 << 28, 0xffffffff].map((size) => ({
      header: [32, u32(size)] as const,
    })),
    ...[0, 5, 6, 100, 1 << 20, 0x20000000, 0xffffffff].map((count) => ({ header: [28, u32(count)] as const })),
    ...[0x600n, 0x700n, 0x800n, 0xa00n, 1n << 40n, -1n].map((offset) => ({ header: [16, u64(offset)] as const })),
    ...[3, 4, 5, 0xfffffffe].map((entry) => ({ bytes: [TABLE, u32(entry)] as const })),
    { length: end - FOOTER },
    { length: end - FOOTER + 511 },
    { length: 1000 },
    { length: 300 },
    { length: 0 },
  ];
}

test('what is said of images with other fields, and of damaged ones, is what qemu-img says', async (t) => {
  if (qemuImg.missing(t)) return;
  await withTmpDir(async (directory) => {
    const path = join(directory, 'image');
    for (const [options, format] of [
      ['subformat=dynamic', '-p'],
      ['subformat=fixed', '-f'],
    ]) {
      qemuImg.expect(['create', '-q', '-f', 'vpc', '-o', options, path, '10M']);
      const sound = readFileSync(path);
      for (const each of patches(sound.length)) {
        // A fixed disk has no header: what would be one is the guest's.
        if (format === '-f' && (each.header !== undefined || each.bytes !== undefined)) continue;
        writeFileSync(path, format === '-f' ? patchFixed(sound, each) : patch(sound, each));
        t.is(await described(path), qemuDescribes(path), JSON.stringify(each));
      }
    }
  });
});

/** What `info -f vpc` prints, on either channel. Not by the program, of which a hundred runs would take long. */
async function described(path: string): Promise<string> {
  try {
    const [only] = await info({ image: { filename: path, format: 'vpc' } });
    return renderInfo(only);
  } catch (error) {
    if (error instanceof ImageError) return `qemu-img: ${error.message}\n`;
    throw error;
  }
}

function qemuDescribes(path: string): string {
  const { text: said, stderr } = qemuImg.run(['info', '-f', 'vpc', path]);
  return said + stderr;
}

/** Only the last footer is one. */
function patchFixed(sound: Buffer, { footer, unsealed, length }: Patch): Buffer {
  const image = Buffer.from(sound);
  const last = image.subarray(image.length - FOOTER);
  footer?.[1].copy(last, footer[0]);
  if (!unsealed) last.writeUInt32BE(checksum(last, 64), 64);
  return length === undefined ? image : Buffer.concat([image, Buffer.alloc(1024)]).subarray(0, length);
}
