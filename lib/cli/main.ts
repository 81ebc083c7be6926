import { basename } from 'node:path';
import { ImageError } from '../core/errors.ts';
import { type OptionTable, parseArguments } from './arguments.ts';
import { COMMANDS } from './commands/index.ts';
import type { CommandContext } from './context.ts';
import { CommandError, Done, HelpWanted, UsageError } from './errors.ts';
import { ClosedPipe, Output } from './output.ts';
import { Progress } from './render/progress.ts';
import { installSignals, type Signals } from './signals.ts';
import { version } from './version.ts';

// libuv reads this at the first asynchronous call, so it stands before all of them. Four threads, its default,
// keep too few requests and compressed clusters in flight.
process.env.UV_THREADPOOL_SIZE ??= '8';

const EXIT_BROKEN_PIPE = 141;

interface Globals {
  trace: string[];
}

function globalOptions(output: Output): OptionTable<Globals> {
  return [
    {
      short: 'h',
      long: 'help',
      apply() {
        throw new HelpWanted();
      },
    },
    {
      short: 'V',
      long: 'version',
      apply() {
        output.write(`${output.program} version ${version()}\n`);
        throw new Done();
      },
    },
    { short: 'T', long: 'trace', value: 'pattern', apply: ({ trace }, value) => void trace.push(value) },
  ];
}

/**
 * The program: runs the command line `argv` (without the program's own name) and resolves to the exit code.
 * Never rejects; everything that goes wrong is told on standard error in one message.
 */
export async function main(argv: readonly string[], program: string): Promise<number> {
  const signals = installSignals();
  const output = new Output(program);
  try {
    const code = await dispatch(argv, output, signals).catch((error) => endEarly(error, output));
    output.flush();
    return code;
  } catch (error) {
    return reportFailure(error, output, signals);
  }
}

/** What ends a command before its work, without being an error. */
async function endEarly(error: unknown, output: Output): Promise<number> {
  if (error instanceof Done) return error.exitCode;
  if (!(error instanceof HelpWanted)) throw error;
  output.write(await (await import('./help.ts')).helpText(output.program));
  return 0;
}

async function dispatch(argv: readonly string[], output: Output, signals: Signals): Promise<number> {
  const globals: Globals = { trace: [] };
  const [name, ...args] = parseArguments(globalOptions(output), argv, globals, {
    stopAtOperand: true,
    name: output.program,
  });
  if (globals.trace.length > 0) await (await import('./tracing.ts')).startTracing(globals.trace, output);
  if (name === undefined) throw new UsageError('Not enough arguments');
  if (!Object.hasOwn(COMMANDS, name)) throw new UsageError(`Command not found: ${name}`);
  const { command } = await COMMANDS[name]();
  if (command.stoppable) signals.stoppable();
  return command.run(args, commandContext(output, signals));
}

function commandContext(output: Output, signals: Signals): CommandContext {
  return {
    output,
    signal: signals.signal,
    startProgress(options) {
      const progress = new Progress(output, options);
      signals.onReport(() => progress.report());
      return progress;
    },
  };
}

function reportFailure(error: unknown, output: Output, signals: Signals): number {
  // Stopped by a signal: whatever the command said about it, the user knows.
  if (signals.exitCode !== null) return signals.exitCode;
  if (error instanceof ClosedPipe || isBrokenPipe(error)) return EXIT_BROKEN_PIPE;
  output.complain(messageOf(error));
  if (error instanceof UsageError) output.writeError(`Try '${output.program} --help' for more information\n`);
  if (process.env.IMGPIPE_DEBUG !== undefined && error instanceof Error) output.writeError(`${error.stack}\n`);
  return error instanceof CommandError ? error.exitCode : 1;
}

/** Standard output, in its role as an image, lost its reader: no failure, and nothing to be said. */
function isBrokenPipe(error: unknown): boolean {
  for (let each = error; each instanceof ImageError; each = each.cause) {
    if (each.code === 'EPIPE' && each.operation === 'write') return true;
  }
  return false;
}

function messageOf(error: unknown): string {
  if (error instanceof ImageError || error instanceof CommandError) return error.message;
  return `Internal error: ${error instanceof Error ? error.message : String(error)}`;
}

/** The name that the program was called by: a link to it may have another. */
function calledAs(script: string): string {
  const name = basename(script);
  return /^(?:imgpipe\.cjs|main\.[jt]s)$/.test(name) ? 'imgpipe' : name;
}

main(process.argv.slice(2), calledAs(process.argv[1])).then(
  (code) => process.exit(code),
  () => process.exit(1),
);
