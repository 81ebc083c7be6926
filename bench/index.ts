/**
 * imgpipe beside qemu-img, in one run: `npm run bench [-- --size 4G --runs 3 --only NAME --dir DIR --keep]`.
 * With `--keep`, DIR keeps the disks, and the next run takes them from there.
 * Prints a table of wall-time ratios (ours / theirs; below 1 is faster) and peak memory.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { parseUnsignedSize } from '../lib/core/units.ts';
import { type Case, cases } from './cases.ts';
import { type Disks, disksIn } from './disk.ts';
import { median, type Run, run } from './run.ts';

const OURS = [process.execPath, 'dist/imgpipe.cjs'];

interface Row {
  name: string;
  ours: Run[];
  theirs: Run[];
}

async function measure(each: Case, disks: Disks, output: string, runs: number): Promise<Row> {
  const args = each.args(disks, output);
  const theirs = each.against === undefined ? ['qemu-img', ...args] : [...each.against];
  const row: Row = { name: each.name, ours: [], theirs: [] };
  const count = runs * (each.repeat ?? 1);
  // The first pair warms the page cache and is not counted; then the two take turns, so that a machine
  // whose speed drifts drifts under both.
  for (let index = 0; index <= count; index += 1) {
    rmSync(output, { force: true });
    const their = await run(theirs);
    rmSync(output, { force: true });
    const our = await run([...OURS, ...args]);
    if (index === 0) continue;
    row.theirs.push(their);
    row.ours.push(our);
  }
  rmSync(output, { force: true });
  return row;
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
    const row = await measure(each, disks, join(directory, 'output'), Number(values.runs));
    console.log(render(row, each));
  }
} finally {
  if (!values.keep) rmSync(directory, { recursive: true, force: true });
}
