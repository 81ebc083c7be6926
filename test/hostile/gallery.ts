import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { driverNamed } from '../../lib/formats/index.ts';
import { factsOf, pairsOf, SECRET_OBJECTS } from '../conformance/facts.ts';
import { makeBochs } from '../support/bochs-images.ts';
import { makeCloop } from '../support/cloop-images.ts';
import { makeDmg } from '../support/dmg-images.ts';
import { mixedDisk } from '../support/images.ts';
import { pattern } from '../support/model.ts';
import { sparseDisk } from '../support/sparse-disk.ts';
import { type Tool, tool } from '../support/tools.ts';

const KIB = 1024;
const MIB = 1024 * KIB;

/** A small image of a format other than qcow2, made by somebody else's program. */
export interface Recipe {
  /** File name; the extension is the format. */
  file: string;
  tools: readonly Tool[];
  /** Makes it, and what it refers to, in the directory. */
  make(directory: string): void | Promise<void>;
}

interface QemuRecipe {
  size: number;
  options?: string;
  /** By `convert`, with these arguments, instead of by writing to a new image. */
  convert?: readonly string[];
  /** Written compressed. */
  packed?: boolean;
}

const qemuImg = tool('qemu-img');
const qemuIo = tool('qemu-io');

/** What makes the images that qemu-img can make. Sizes: a few blocks of the format, as small as it lets them be. */
const QEMU_RECIPES: Readonly<Record<string, QemuRecipe>> = {
  'plain.qcow': { size: 256 * KIB },
  // qemu-img 7.2 ends `convert -c -O qcow` with exit code 1.
  'packed.qcow': { size: 256 * KIB, packed: true },
  'backed.qcow': { size: 256 * KIB, options: 'backing_file=base.raw,backing_fmt=raw' },
  'plain.qed': { size: 512 * KIB, options: 'cluster_size=4k,table_size=2' },
  'backed.qed': { size: 512 * KIB, options: 'cluster_size=4k,table_size=2,backing_file=base.raw,backing_fmt=raw' },
  'dynamic.vdi': { size: 4 * MIB },
  'static.vdi': { size: MIB, options: 'static=on' },
  'dynamic.vpc': { size: 5 * MIB },
  'fixed.vpc': { size: MIB, options: 'subformat=fixed' },
  'dynamic.vhdx': { size: 4 * MIB, options: 'block_size=1M,log_size=1M' },
  'fixed.vhdx': { size: 2 * MIB, options: 'block_size=1M,log_size=1M,subformat=fixed' },
  'plain.parallels': { size: MIB, options: 'cluster_size=64k' },
  'sparse.vmdk': { size: MIB },
  'stream.vmdk': { size: MIB, convert: ['-o', 'subformat=streamOptimized'] },
  'flat.vmdk': { size: 256 * KIB, options: 'subformat=monolithicFlat' },
  'xts.luks': { size: 128 * KIB, options: 'cipher-alg=aes-128,iter-time=10' },
  'split.vmdk': { size: MIB, options: 'subformat=twoGbMaxExtentSparse' },
};

/** Images that generators of the tests make; chunks of bzip2 and xz come from these tools. */
const OWN_RECIPES: Readonly<Record<string, () => Buffer>> = {
  'growing.bochs': () => makeBochs(sparseDisk(512 * KIB, 1), { extentSize: 8 * KIB }),
  'large-extents.bochs': () => makeBochs(sparseDisk(512 * KIB, 2), { extentSize: 128 * KIB, version: 1 }),
  'plain.dmg': () => makeDmg(sparseDisk(256 * KIB, 4), { chunks: ['zlib', 'raw'], chunkSectors: 32 }),
  'every-chunk.dmg': () =>
    makeDmg(pattern(64 * KIB, 5), { chunks: ['adc', 'lzfse-mixed', 'bzip2', 'lzma'], chunkSectors: 32 }),
  'packed.cloop': () => makeCloop(sparseDisk(512 * KIB, 3), 16 * KIB),
};

/** Images by file name; `registered` tells which formats are to be had. */
export const RECIPES: readonly Recipe[] = [
  ...Object.entries(QEMU_RECIPES).map(([file, recipe]) => ({
    file,
    tools: [qemuImg, qemuIo],
    make: (directory: string) => makeWithQemu(directory, file, recipe),
  })),
  ...Object.entries(OWN_RECIPES).map(([file, make]) => ({
    file,
    tools: file === 'every-chunk.dmg' ? [tool('bzip2'), tool('xz')] : [],
    make: (directory: string) => writeFileSync(join(directory, file), make()),
  })),
];

/** The format's name: the extension. */
export function formatOf(file: string): string {
  return file.slice(file.lastIndexOf('.') + 1);
}

function makeWithQemu(directory: string, file: string, { size, options, convert, packed }: QemuRecipe): void {
  const run = { cwd: directory };
  const format = formatOf(file);
  writeFileSync(join(directory, 'base.raw'), pattern(100 * KIB, 90));
  if (convert !== undefined) {
    writeFileSync(join(directory, 'source.raw'), mixedDisk(size));
    qemuImg.expect(['convert', '-f', 'raw', '-O', format, ...convert, 'source.raw', file], run);
    return;
  }
  const { needs } = factsOf(driverNamed(format));
  const pairs = [...(options === undefined ? [] : [options]), ...pairsOf(needs?.create ?? {})];
  const given = pairs.length === 0 ? [] : ['-o', pairs.join()];
  qemuImg.expect(['create', '-q', ...SECRET_OBJECTS, '-f', format, ...given, file, String(size)], run);
  const sector = (part: number) => Math.floor((size * part) / 512) * 512;
  const packs = [4, 8, 12].map((block) => `write -c -P ${block} ${block}k 4k`);
  const plain = [`write -P 1 0 ${sector(0.2)}`, `write -P 2 ${sector(0.5)} 9k`, `write -P 3 ${size - 512} 512`];
  const commands = packed ? packs : plain;
  const node = [`driver=${format}`, `file.filename=${file}`, ...pairsOf(needs?.open ?? {})].join();
  const each = commands.flatMap((command) => ['-c', command]);
  const output = qemuIo.expect([...SECRET_OBJECTS, '--image-opts', ...each, node], run);
  if (/error|fail/i.test(output)) throw new Error(`qemu-io: ${output}`);
}
