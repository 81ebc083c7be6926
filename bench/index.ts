/**
 * imgpipe beside qemu-img, in one run: `npm run bench [-- --size 4G --runs 3 --only NAME --dir DIR --keep]`.
 * With `--keep`, DIR keeps the disks, and the next run takes them from there.
 * Prints a table of wall-time ratios (ours / theirs; below 1 is faster) and peak memory.
 */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { parseUnsignedSize } from '../lib/core/units.ts';
import type { Case } from './case.ts';
import { cases } from './cases.ts';
import { type Disks, disksIn } from './disk.ts';
import { median, type Run, run } from './run.ts';

const OURS = [process.execPath, 'dist/imgpipe.cjs'];

interface Row {
  name: string;
  ours: Run[];
  theirs: Run[];
}

async function measure(each: Case, disks: Disks, directory: string, runs: number): Promise<Row> {
  const output = join(directory, 'output');
  const copy = (name: string) => join(directory, 'copies', name);
  const args = each.args(disks, output, copy);
  const theirs = each.against === undefined ? ['qemu-img', ...args] : [...each.against];
  const row: Row = { name: each.name, ours: [], theirs: [] };
  const count = runs * (each.repeat ?? 1);
  const fresh = (command: readonly string[]): Promise<Run> => {
    rmSync(output, { force: true });
    for (const [name, disk] of Object.entries(each.copies?.(disks) ?? {})) copyAfresh(disk, copy(name));
    return run(command);
  };
  // The first pair warms the page cache and is not counted; then the two take turns, so that a machine
  // whose speed drifts drifts under both.
  for (let index = 0; index <= count; index += 1) {
    const their = await fresh(theirs);
    const our = await fresh([...OURS, ...args]);
    if (index === 0) continue;
    row.theirs.push(their);
    row.ours.push(our);
  }
  rmSync(output, { force: true });
  rmSync(join(directory, 'copies'), { recursive: true, force: true });
  return row;
}

/** On the disk too: or the command, when it flushes, would wait for the copy. */
function copyAfresh(disk: string, path: string): void {
  mkdirSync(dirname(path), { recursive: true });
  rmSync(path, { force: true });
  execFileSync('cp', ['--reflink=auto', '--sparse=auto', disk, path]);
  execFileSync('sync', [path]);
}

function render(row: Row, each: Case): string {
  const ratio = median(row.ours.map((our, index) => our.seconds / row.theirs[index].seconds));
  const cells = [
    row.name.padEnd(32),
    ratio.toFixed(2).padStart(6),
    each.aim.toFixed(1).padStart(5),
    median(row.ours.map((r) => r.seconds))
      .toFixed(3)
      .padStart(9),
    median(row.theirs.map((r) => r.seconds))
      .toFixed(3)
      .padStart(9),
    Math.max(...row.ours.map((r) => r.peakMiB))
      .toFixed(0)
      .padStart(8),
    Math.max(...row.theirs.map((r) => r.peakMiB))
      .toFixed(0)
      .padStart(8),
  ];
  return cells.join(' ');
}

const { values } = parseArgs({
  options: {
    size: { type: 'string', default: '4G' },
    runs: { type: 'string', default: '3' },
    only: { type: 'string', default: '' },
    dir: { type: 'string', default: tmpdir() },
    keep: { type: 'boolean', default: false },
  },
});
const size = parseUnsignedSize(values.size);
if (size === null) throw new Error(`--size ${values.size} is no size`);
const directory = values.keep ? values.dir : mkdtempSync(join(values.dir, 'imgpipe-bench-'));
try {
  const disks = disksIn(directory, size);
  console.log(`${'case'.padEnd(32)}  ratio   aim    ours s  theirs s ours MiB  theirs`);
  for (const each of cases) {
    if (!each.name.includes(values.only)) continue;
    const row = await measure(each, disks, directory, Number(values.runs));
    console.log(render(row, each));
  }
} finally {
  if (!values.keep) rmSync(directory, { recursive: true, force: true });
}
