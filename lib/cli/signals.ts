import { constants } from 'node:os';

const ENDING = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** The signals that the program answers. */
export interface Signals {
  /** Aborted by the first SIGINT, SIGTERM or SIGHUP. */
  readonly signal: AbortSignal;
  /** 128 plus the signal that came, or null. */
  readonly exitCode: number | null;
  /** From now on a signal lets the running command clean up; before, it ends the program. */
  stoppable(): void;
  /** What SIGUSR1 does. */
  onReport(report: () => void): void;
}

/**
 * Answers signals from now on. A listener for SIGUSR1 also keeps Node from opening its debugger,
 * so this comes before anything else.
 */
export function installSignals(): Signals {
  const controller = new AbortController();
  let exitCode: number | null = null;
  let graceful = false;
  let report = () => {};
  process.on('SIGUSR1', () => report());
  for (const name of ENDING) {
    process.on(name, () => {
      const first = exitCode === null;
      exitCode ??= 128 + constants.signals[name];
      if (!graceful || !first) process.exit(exitCode);
      controller.abort();
    });
  }
  return {
    signal: controller.signal,
    get exitCode() {
      return exitCode;
    },
    stoppable() {
      graceful = true;
    },
    onReport(next) {
      report = next;
    },
  };
}
