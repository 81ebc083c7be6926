import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pattern, Random } from './model.ts';
import { tool } from './tools.ts';

/** A qcow2 image made by the real tools, small enough to be copied thousands of times. */
export interface GalleryImage {
  /** Also its file name, with `.qcow2`. */
  name: string;
  path: string;
  bytes: Buffer;
  /** What the disk reads as. */
  contents: Buffer;
}

interface Recipe {
  name: string;
  size: number;
  options: string;
  /** Written by qemu-io, after the pattern that all images get. */
  commands?: readonly string[];
  /** Converted from a raw disk with `-c` instead of being written to. */
  compressed?: boolean;
  /** Further steps with qemu-img; `{}` stands for the image. */
  steps?: readonly (readonly string[])[];
}

const KIB = 1024;

/** One image for each feature of the format. */
const RECIPES: readonly Recipe[] = [
  { name: 'plain', size: 1024 * KIB, options: 'cluster_size=4k' },
  { name: 'defaults', size: 1024 * KIB + 512, options: 'cluster_size=64k' },
  { name: 'version2', size: 512 * KIB, options: 'cluster_size=4k,compat=0.10' },
  { name: 'tiny-clusters', size: 256 * KIB, options: 'cluster_size=512,refcount_bits=1' },
  { name: 'wide-refcounts', size: 256 * KIB, options: 'cluster_size=1k,refcount_bits=64' },
  { name: 'zlib', size: 512 * KIB, options: 'cluster_size=8k', compressed: true },
  { name: 'zstd', size: 512 * KIB, options: 'cluster_size=8k,compression_type=zstd', compressed: true },
  { name: 'extended-l2', size: 512 * KIB, options: 'cluster_size=16k,extended_l2=on' },
  {
    name: 'snapshots',
    size: 256 * KIB,
    options: 'cluster_size=4k',
    steps: [
      ['snapshot', '-c', 'first', '{}'],
      ['io', '-c', 'write -P 17 3k 20k', '{}'],
      ['snapshot', '-c', 'the second one', '{}'],
      ['io', '-c', 'write -P 18 100k 9k', '{}'],
    ],
  },
  {
    name: 'bitmaps',
    size: 512 * KIB,
    options: 'cluster_size=4k',
    steps: [
      ['bitmap', '--add', '-g', '4k', '{}', 'dirty'],
      ['bitmap', '--add', '{}', 'another'],
      ['io', '-c', 'write -P 19 32k 64k', '{}'],
    ],
  },
  { name: 'data-file', size: 256 * KIB, options: 'cluster_size=4k,data_file=data-file.bin' },
  {
    name: 'raw-data-file',
    size: 256 * KIB,
    options: 'cluster_size=4k,data_file=raw-data-file.bin,data_file_raw=on',
  },
  { name: 'backed', size: 256 * KIB, options: 'cluster_size=4k,backing_file=base.raw,backing_fmt=raw' },
];

/** Whether `qcow2Gallery` can work here. */
export function galleryTools() {
  return [tool('qemu-img'), tool('qemu-io')];
}

/** Makes the images of `names` (all by default) in `directory`, with the files that they refer to. */
export function qcow2Gallery(directory: string, names?: readonly string[]): GalleryImage[] {
  writeFileSync(join(directory, 'base.raw'), pattern(100 * KIB, 90));
  return RECIPES.filter(({ name }) => names === undefined || names.includes(name)).map((recipe) =>
    makeImage(directory, recipe),
  );
}

/** Names of all images of the gallery. */
export const GALLERY_NAMES: readonly string[] = RECIPES.map(({ name }) => name);

function makeImage(directory: string, recipe: Recipe): GalleryImage {
  const qemuImg = tool('qemu-img');
  const file = `${recipe.name}.qcow2`;
  const path = join(directory, file);
  const run = { cwd: directory };
  if (recipe.compressed) {
    writeFileSync(join(directory, 'source.raw'), mixedDisk(recipe.size));
    qemuImg.expect(['convert', '-f', 'raw', '-O', 'qcow2', '-c', '-o', recipe.options, 'source.raw', file], run);
  } else {
    qemuImg.expect(['create', '-q', '-f', 'qcow2', '-o', recipe.options, file, String(recipe.size)], run);
    writeWithQemu(directory, file, writesFor(recipe.size));
  }
  for (const step of recipe.steps ?? []) {
    const words = step.map((word) => (word === '{}' ? file : word));
    if (words[0] === 'io') writeWithQemu(directory, file, [words[2]]);
    else qemuImg.expect(words, run);
  }
  qemuImg.expect(['convert', '-O', 'raw', file, 'contents.raw'], run);
  return {
    name: recipe.name,
    path,
    bytes: readFileSync(path),
    contents: readFileSync(join(directory, 'contents.raw')),
  };
}

/** Data, zero clusters, a discarded run and holes. */
function writesFor(size: number): string[] {
  const unit = size / 16;
  const at = (index: number) => Math.floor((index * unit) / 512) * 512;
  return [
    `write -P 1 0 ${at(2)}`,
    `write -P 2 ${at(4)} ${at(1)}`,
    `write -z ${at(6)} ${at(2)}`,
    `write -P 3 ${at(9) + 512} 1024`,
    `write -P 4 ${at(14)} ${at(1)}`,
    `discard ${at(1)} ${at(1)}`,
    `write -P 5 ${size - 512} 512`,
  ];
}

function writeWithQemu(directory: string, file: string, commands: readonly string[]): void {
  const output = tool('qemu-io').expect(['-f', 'qcow2', ...commands.flatMap((each) => ['-c', each]), file], {
    cwd: directory,
  });
  if (/error|fail/i.test(output)) throw new Error(`qemu-io: ${output}`);
}

/** A disk of which some clusters compress well, some don't, and some are zeros. */
export function mixedDisk(size: number): Buffer {
  const disk = Buffer.alloc(size);
  const random = new Random(4);
  for (let at = 0; at + 8192 <= size; at += 8192) {
    const kind = random.below(4);
    if (kind === 0) random.bytes(8192).copy(disk, at);
    else if (kind < 3) pattern(8192, at >> 12).copy(disk, at);
  }
  return disk;
}
