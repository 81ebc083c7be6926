import { execFileSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  rmSync,
  statSync,
  symlinkSync,
} from 'node:fs';
import { join } from 'node:path';

/** The images that the cases read, made once for a run. */
export interface Disks {
  /** A raw disk with an ext4 file system, about a quarter full of real files. */
  raw: string;
  qcow2: string;
  /** zlib-compressed qcow2. */
  compressed: string;
  /** Three qcow2 layers; each holds a part of the disk. */
  chain: string;
  /** Same contents as `raw`. */
  copy: string;
  /** 64 TiB with a few thousand clusters. */
  huge: string;
}

/** Where the disks lie, made or not. */
export function disksIn(directory: string): Disks {
  const at = (name: string) => join(directory, name);
  return {
    raw: at('disk.raw'),
    qcow2: at('disk.qcow2'),
    compressed: at('compressed.qcow2'),
    chain: at('top.qcow2'),
    copy: at('copy.raw'),
    huge: at('huge.qcow2'),
  };
}

/** Makes the disks in `directory`; `sizeBytes` of the raw one. */
export function makeDisks(disks: Disks, directory: string, sizeBytes: number): void {
  const at = (name: string) => join(directory, name);
  makeFileSystem(disks.raw, at('tree'), sizeBytes);
  qemu('convert', '-O', 'qcow2', disks.raw, disks.qcow2);
  qemu('convert', '-O', 'qcow2', '-c', disks.raw, disks.compressed);
  qemu('convert', '-O', 'raw', disks.raw, disks.copy);
  makeChain(disks, at, sizeBytes);
  makeHuge(disks.huge);
}

/** An ext4 file system with copies of this machine's own files, without mounting anything. */
function makeFileSystem(path: string, tree: string, sizeBytes: number): void {
  mkdirSync(tree);
  let left = sizeBytes / 4;
  for (const root of ['/usr/lib', '/usr/bin', '/usr/share', '/usr/include', '/opt']) {
    left = linkTree(root, join(tree, root.replaceAll('/', '_')), left);
  }
  const fd = openSync(path, 'w');
  ftruncateSync(fd, sizeBytes);
  closeSync(fd);
  execFileSync('mke2fs', ['-q', '-t', 'ext4', '-d', tree, path], { stdio: ['ignore', 'ignore', 'inherit'] });
  rmSync(tree, { recursive: true, force: true });
}

/** Copies regular files until `budget` bytes are used; returns what is left of it. */
function linkTree(from: string, to: string, budget: number): number {
  if (budget <= 0 || !existsSync(from)) return budget;
  mkdirSync(to, { recursive: true });
  let left = budget;
  for (const entry of readdirSync(from, { withFileTypes: true })) {
    if (left <= 0) break;
    const source = join(from, entry.name);
    if (entry.isDirectory()) left = linkTree(source, join(to, entry.name), left);
    else if (entry.isFile()) {
      const { size } = statSync(source);
      if (size > left) continue;
      execFileSync('cp', ['--reflink=auto', source, to]);
      left -= size;
    } else if (entry.isSymbolicLink()) symlinkSync('/nowhere', join(to, entry.name));
  }
  return left;
}

function makeChain(disks: Disks, at: (name: string) => string, sizeBytes: number): void {
  const base = at('base.qcow2');
  const middle = at('middle.qcow2');
  qemu('convert', '-O', 'qcow2', disks.raw, base);
  qemu('create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', middle);
  qemu('create', '-q', '-f', 'qcow2', '-b', middle, '-F', 'qcow2', disks.chain);
  scatterWrites(middle, sizeBytes, 0, 400);
  scatterWrites(disks.chain, sizeBytes, 1, 400);
}

/** Writes `count` runs of 256 KiB spread over the disk. */
function scatterWrites(path: string, sizeBytes: number, phase: number, count: number): void {
  const step = Math.floor(sizeBytes / count / 65536) * 65536;
  const commands: string[] = [];
  for (let index = 0; index < count; index += 1) {
    const offset = index * step + phase * Math.floor(step / 2 / 65536) * 65536;
    commands.push('-c', `write -q -P ${1 + (index % 250)} ${offset} 256k`);
  }
  execFileSync('qemu-io', ['-f', 'qcow2', ...commands, path], { stdio: ['ignore', 'ignore', 'inherit'] });
}

function makeHuge(path: string): void {
  qemu('create', '-q', '-f', 'qcow2', path, '64T');
  scatterWrites(path, 64 * 1024 ** 4, 0, 1000);
}

function qemu(...args: string[]): void {
  execFileSync('qemu-img', args, { stdio: ['ignore', 'ignore', 'inherit'] });
}
