import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** One run of one program. */
export interface Run {
  seconds: number;
  /** Peak resident memory in MiB, as the kernel counts it (VmHWM). */
  peakMiB: number;
}

/** Runs a command to its end; rejects unless it exits with a code in `accept`. */
export function run(command: readonly string[], accept: readonly number[] = [0]): Promise<Run> {
  return new Promise((resolve, reject) => {
    const started = process.hrtime.bigint();
    const child = spawn(command[0], command.slice(1), { stdio: ['ignore', 'ignore', 'pipe'] });
    let peakMiB = 0;
    let errors = '';
    const sample = () => {
      peakMiB = Math.max(peakMiB, peakOf(child.pid));
    };
    sample();
    const timer = setInterval(sample, 5);
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      errors += text;
    });
    child.once('error', reject);
    child.once('exit', (code, signal) => {
      const seconds = Number(process.hrtime.bigint() - started) / 1e9;
      clearInterval(timer);
      if (code !== null && accept.includes(code)) resolve({ seconds, peakMiB });
      else reject(new Error(`${command.join(' ')} ended with ${code ?? signal}: ${errors.trim()}`));
    });
  });
}

// VmHWM only grows, so a late sample is a true peak of all that went before.
function peakOf(pid: number | undefined): number {
  try {
    const match = /VmHWM:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, 'latin1'));
    return match === null ? 0 : Number(match[1]) / 1024;
  } catch {
    return 0;
  }
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}
