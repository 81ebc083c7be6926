import { execFileSync } from 'node:child_process';
import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { makeDmg } from '../test/support/dmg-images.ts';

/** What a generator makes in memory is no longer than this. */
const DMG_BYTES = 512 * 1024 * 1024;

/** Paths of the images that cases read: to ask for one is to have it made. */
export interface Disks {
  /** A raw disk with an ext4 file system, about a quarter full of real files. */
  readonly raw: string;
  /** Same contents as `raw`. */
  readonly copy: string;
  readonly qcow2: string;
  /** zlib-compressed qcow2. */
  readonly compressed: string;
  /** Three qcow2 layers; each holds a part of the disk. */
  readonly chain: string;
  /** 64 TiB with a few thousand clusters. */
  readonly huge: string;
  readonly vmdk: string;
  readonly streamOptimized: string;
  readonly vdi: string;
  readonly vpc: string;
  readonly vhdx: string;
  readonly qed: string;
  readonly parallels: string;
  /** UDIF with zlib chunks. */
  readonly dmg: string;
  /** `qcow2` with a snapshot `old`, and changed in many places since. */
  readonly snapshots: string;
  /** `qcow2` with half its clusters lost: no table refers to them. */
  readonly leaking: string;
  /** Holds the whole disk, over a backing file beside it, `OVERLAY_BASE`, that is empty. */
  readonly overlay: string;
  readonly overlayBase: string;
  /** Encrypted with the passphrase of `SECRET`. */
  readonly luks: string;
  readonly encrypted: string;
}

/** Name of the overlay's backing file, relative to it. */
export const OVERLAY_BASE = 'overlay-base.qcow2';
/** The secret `key`, for `--object`. */
export const SECRET = 'secret,id=key,data=bench';

/** What is to be made: `at` gives the path of a name beside it, `disks` those that it is made from. */
interface Order {
  path: string;
  sizeBytes: number;
  disks: Disks;
  at(name: string): string;
}

interface Maker {
  file: string;
  make(order: Order): void;
}

const MAKERS: Readonly<Record<keyof Disks, Maker>> = {
  raw: { file: 'disk.raw', make: ({ path, at, sizeBytes }) => makeFileSystem(path, at('tree'), sizeBytes) },
  copy: { file: 'copy.raw', make: fromRaw('raw') },
  qcow2: { file: 'disk.qcow2', make: fromRaw('qcow2') },
  compressed: { file: 'compressed.qcow2', make: fromRaw('qcow2', '-c') },
  chain: { file: 'top.qcow2', make: makeChain },
  huge: { file: 'huge.qcow2', make: ({ path }) => makeHuge(path) },
  vmdk: { file: 'disk.vmdk', make: fromRaw('vmdk') },
  streamOptimized: { file: 'stream.vmdk', make: fromRaw('vmdk', '-o', 'subformat=streamOptimized') },
  vdi: { file: 'disk.vdi', make: fromRaw('vdi') },
  vpc: { file: 'disk.vhd', make: fromRaw('vpc') },
  vhdx: { file: 'disk.vhdx', make: fromRaw('vhdx') },
  qed: { file: 'disk.qed', make: fromRaw('qed') },
  parallels: { file: 'disk.hds', make: fromRaw('parallels') },
  dmg: { file: 'disk.dmg', make: makeDmgOf },
  snapshots: { file: 'snapshots.qcow2', make: makeSnapshots },
  leaking: { file: 'leaking.qcow2', make: makeLeaking },
  overlay: { file: 'overlay.qcow2', make: makeOverlay },
  overlayBase: {
    file: OVERLAY_BASE,
    make: ({ path, sizeBytes }) => qemu('create', '-q', '-f', 'qcow2', path, `${sizeBytes}`),
  },
  luks: { file: 'disk.luks', make: fromRaw('luks', '--object', SECRET, '-o', 'key-secret=key,iter-time=10') },
  encrypted: {
    file: 'encrypted.qcow2',
    make: fromRaw('qcow2', '--object', SECRET, '-o', 'encrypt.format=luks,encrypt.key-secret=key,encrypt.iter-time=10'),
  },
};

/** The disks of a directory, the raw one of `sizeBytes`. What is there is taken as it is. */
export function disksIn(directory: string, sizeBytes: number): Disks {
  const at = (name: string) => join(directory, name);
  const disks = {} as Disks;
  for (const [name, { file, make }] of Object.entries(MAKERS)) {
    Object.defineProperty(disks, name, {
      get() {
        const path = at(file);
        if (existsSync(path)) return path;
        console.error(`making ${path} …`);
        // Under another name until it is whole: a run that is stopped leaves nothing that passes for a disk.
        const partial = `${path}.partial`;
        make({ path: partial, sizeBytes, disks, at });
        renameSync(partial, path);
        return path;
      },
    });
  }
  return disks;
}

function fromRaw(format: string, ...options: string[]) {
  return ({ path, disks }: Order) => qemu('convert', '-f', 'raw', '-O', format, ...options, disks.raw, path);
}

/** In one piece in memory: a part of the disk is enough to measure by. */
function makeDmgOf({ path, disks, sizeBytes }: Order): void {
  const bytes = Buffer.alloc(Math.min(sizeBytes, DMG_BYTES));
  const fd = openSync(disks.raw, 'r');
  readSync(fd, bytes, 0, bytes.length, 0);
  closeSync(fd);
  writeFileSync(path, makeDmg(bytes, { chunks: ['zlib'], chunkSectors: 512 }));
}

/** An ext4 file system with copies of this machine's own files, without mounting anything. */
function makeFileSystem(path: string, tree: string, sizeBytes: number): void {
  // A run that was stopped may have left it.
  rmSync(tree, { recursive: true, force: true });
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

function makeChain({ path, disks, at, sizeBytes }: Order): void {
  const base = at('base.qcow2');
  const middle = at('middle.qcow2');
  qemu('convert', '-O', 'qcow2', disks.raw, base);
  qemu('create', '-q', '-f', 'qcow2', '-b', base, '-F', 'qcow2', middle);
  qemu('create', '-q', '-f', 'qcow2', '-b', middle, '-F', 'qcow2', path);
  scatterWrites(middle, sizeBytes, 0, 400);
  scatterWrites(path, sizeBytes, 1, 400);
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

function makeSnapshots({ path, disks, sizeBytes }: Order): void {
  qemu('convert', '-O', 'qcow2', disks.raw, path);
  qemu('snapshot', '-c', 'old', path);
  scatterWrites(path, sizeBytes, 0, 400);
}

/** The second half of the L1 table is lost: what is under it is nobody's. */
function makeLeaking({ path, disks }: Order): void {
  qemu('convert', '-O', 'qcow2', disks.raw, path);
  const fd = openSync(path, 'r+');
  const header = Buffer.alloc(104);
  readSync(fd, header, 0, header.length, 0);
  const entries = header.readUInt32BE(36);
  const lost = Buffer.alloc(Math.floor(entries / 2) * 8);
  writeSync(fd, lost, 0, lost.length, Number(header.readBigUInt64BE(40)) + entries * 8 - lost.length);
  closeSync(fd);
}

function makeOverlay({ path, disks }: Order): void {
  // qemu-img looks for it when the overlay is made.
  statSync(disks.overlayBase);
  qemu('create', '-q', '-f', 'qcow2', '-b', OVERLAY_BASE, '-F', 'qcow2', path);
  qemu('convert', '-n', '-f', 'raw', '-O', 'qcow2', disks.raw, path);
}

function makeHuge(path: string): void {
  qemu('create', '-q', '-f', 'qcow2', path, '64T');
  scatterWrites(path, 64 * 1024 ** 4, 0, 1000);
}

function qemu(...args: string[]): void {
  execFileSync('qemu-img', args, { stdio: ['ignore', 'ignore', 'inherit'] });
}
