import { fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { ExecutionContext } from 'ava';
import type { Message, Report } from './campaign.ts';
import type { PlanName } from './plans.ts';

/** Far above what the slowest case takes on a busy machine, so that only a hang reaches it. */
const PATIENCE = 60_000;
/** Node, its transpiler and the images take about 150 MiB; a lying length asks for far more. */
const MEMORY_BOUND = 512 * 1024 * 1024;

/**
 * Runs a campaign on files of the directory, each with its format as extension, in a child process; rejects where it hangs or dies, naming the case. A loop that never
 * yields can only be seen from outside.
 */
export function runCampaign(directory: string, plan: PlanName, files: readonly string[]): Promise<Report> {
  const script = fileURLToPath(new URL('./campaign.ts', import.meta.url));
  const child = fork(script, [directory, plan, ...files], { execArgv: ['--import=tsx'] });
  return new Promise((resolve, reject) => {
    let at = 'start';
    let timer: NodeJS.Timeout;
    const rewind = () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        child.kill('SIGKILL');
        reject(new Error(`hangs: ${at}`));
      }, PATIENCE);
    };
    rewind();
    child.on('message', (message: Message) => {
      rewind();
      if ('at' in message) at = message.at;
      else resolve(message.report);
    });
    child.on('error', reject);
    child.on('exit', (code, signal) => {
      clearTimeout(timer);
      reject(new Error(`ended with ${signal ?? code}: ${at}`));
    });
  });
}

/** What must hold of every campaign. */
export function checkReport(t: ExecutionContext, report: Report): void {
  const { cases, refused, located, worked, largestBuffer, peakMemory } = report;
  const mebibytes = (bytes: number) => `${Math.round(bytes / 1024 / 1024)} MiB`;
  t.log(`${cases} files, ${refused} refused in some step (${located} times with an offset), ${worked} steps worked`);
  t.log(`largest buffer ${mebibytes(largestBuffer)}, peak memory ${mebibytes(peakMemory)}`);
  t.deepEqual(report.faults, {});
  t.true(peakMemory < MEMORY_BOUND, `peak memory ${mebibytes(peakMemory)}`);
}
