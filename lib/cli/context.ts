import type { Output } from './output.ts';
import type { Progress, ProgressOptions } from './render/progress.ts';

/** What a command gets to work with. */
export interface CommandContext {
  readonly output: Output;
  /** Aborted by SIGINT, SIGTERM or SIGHUP. */
  readonly signal: AbortSignal;
  /** Starts the progress display; SIGUSR1 asks it from then on. */
  startProgress(options: ProgressOptions): Progress;
}

/** One verb of the program. Its file is loaded when it is used. */
export interface Command {
  /** Options and operands, as `--help` lists them. */
  readonly syntax: string;
  /** More for `--help`: lines about single options. */
  readonly details?: readonly string[];
  /** Heeds `signal` and cleans up; other commands are ended by a signal at once. */
  readonly stoppable: boolean;
  /** Runs it; `args` are those after its name. Resolves to the exit code. */
  run(args: readonly string[], context: CommandContext): Promise<number>;
}
