/**
 * Runs mutated images in a process of its own: `campaign.ts <directory> <plan> <file>…`, where each file's extension
 * is the name of its format. The parent is told of each case before it begins, so that it knows which one hangs
 * (see watch.ts).
 */

import { readFileSync } from 'node:fs';
import { extname, join } from 'node:path';
import { AllocationWatch } from './allocations.ts';
import { exercise } from './exercise.ts';
import { casesOf, type PlanName } from './plans.ts';

/** What the parent gets. */
export type Message = { at: string } | { report: Report };

export interface Report {
  cases: number;
  /** Cases in which some step was refused, but for snapshots that are not there. */
  refused: number;
  /** Refusals that name an offset. */
  located: number;
  worked: number;
  /** What must not be, each kind once: how often, and the first case. */
  faults: Record<string, { count: number; first: string }>;
  /** Each message with how often it came. */
  messages: Record<string, number>;
  /** Bytes of the largest buffer in any case. */
  largestBuffer: number;
  /** Peak resident set in bytes. */
  peakMemory: number;
}

/** Buffers of fixed size that the library keeps (I/O windows, pools) are below this. */
const FIXED_BUFFERS = 4 * 1024 * 1024;

const report: Report = {
  cases: 0,
  refused: 0,
  located: 0,
  worked: 0,
  faults: {},
  messages: {},
  largestBuffer: 0,
  peakMemory: 0,
};
let current = 'start';

function fault(text: string): void {
  const kind = withoutNumbers(text);
  report.faults[kind] ??= { count: 0, first: current };
  report.faults[kind].count += 1;
}

function withoutNumbers(text: string): string {
  return text.replace(/0x[0-9a-f]+|\b\d+\b/g, 'N');
}

function formatOf(file: string): string {
  return extname(file).slice(1);
}

function tell(message: Message): void {
  process.send?.(message);
}

async function runCase(file: string, bytes: Buffer, watch: AllocationWatch): Promise<void> {
  watch.take();
  const outcome = await exercise(file, formatOf(file), bytes);
  const largest = watch.take();
  if (largest > FIXED_BUFFERS + 2 * bytes.length) fault(`a buffer of ${largest} bytes for a file of ${bytes.length}`);
  report.largestBuffer = Math.max(report.largestBuffer, largest);
  report.cases += 1;
  report.worked += outcome.worked;
  if (outcome.refused.some(({ error }) => error.kind !== 'missing')) report.refused += 1;
  for (const { step, error } of outcome.refused) {
    if (error.offset !== undefined) report.located += 1;
    const message = `${step}: [${error.kind}] ${withoutNumbers(error.message)}`;
    report.messages[message] = (report.messages[message] ?? 0) + 1;
  }
  for (const each of outcome.faults) fault(each);
}

async function main(directory: string, plan: PlanName, files: readonly string[]): Promise<void> {
  // References inside the images are relative to the current directory, since the images are in memory.
  process.chdir(directory);
  process.on('unhandledRejection', (error) => fault(`unhandled rejection: ${(error as Error)?.stack ?? error}`));
  process.on('uncaughtException', (error) => fault(`uncaught exception: ${error.stack}`));
  const watch = new AllocationWatch();
  watch.start();
  for (const file of files) {
    const bytes = readFileSync(join(directory, file));
    for (const mutation of casesOf(plan, formatOf(file), bytes)) {
      current = `${file}, ${mutation.name}`;
      tell({ at: current });
      await runCase(file, mutation.apply(Buffer.from(bytes)), watch);
    }
  }
  // Promises that were left behind get their turn to reject.
  await new Promise((resolve) => setImmediate(resolve));
  report.peakMemory = process.resourceUsage().maxRSS * 1024;
  tell({ report });
}

const [directory, plan, ...files] = process.argv.slice(2);
await main(directory, plan as PlanName, files);
process.disconnect?.();
