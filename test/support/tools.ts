import { spawnSync } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import type { ExecutionContext } from 'ava';

/** What a run of a tool left behind. */
export interface ToolResult {
  /** Exit code; 128 + signal number where a signal ended it. */
  status: number;
  stdout: Buffer;
  stderr: string;
  /** `stdout` as text. */
  text: string;
}

export interface RunOptions {
  cwd?: string;
  /** Bytes for standard input. */
  input?: Buffer | string;
  env?: NodeJS.ProcessEnv;
  /** Milliseconds after which the tool is killed (default one minute). */
  timeout?: number;
}

/** A program of the system that a test compares with. */
export interface Tool {
  readonly name: string;
  readonly available: boolean;
  /** Runs it to its end, whatever its exit code. */
  run(args: readonly string[], options?: RunOptions): ToolResult;
  /** Runs it and returns its standard output as text; throws unless it exits with 0. */
  expect(args: readonly string[], options?: RunOptions): string;
  /**
   * Whether it is not there: `if (tool.missing(t)) return;`. The test then logs the reason and passes, but in CI, where
   * every tool is installed, it fails: a run that compared with nothing must not look like one that did.
   */
  missing(t: ExecutionContext): boolean;
}

const MAX_OUTPUT = 512 * 1024 * 1024;
const known = new Map<string, Tool>();

/** The tool of that name on PATH (or /sbin), available or not. */
export function tool(name: string): Tool {
  let found = known.get(name);
  if (found === undefined) {
    found = makeTool(name, locate(name));
    known.set(name, found);
  }
  return found;
}

/** Runs any program, by path. */
export function runProgram(path: string, args: readonly string[], options: RunOptions = {}): ToolResult {
  const { status, signal, stdout, stderr, error } = spawnSync(path, args, {
    cwd: options.cwd,
    input: options.input,
    // Coverage of the bundle maps to no source file, and writing it costs each run as much again.
    env: { ...process.env, LC_ALL: 'C', NODE_V8_COVERAGE: '', ...options.env },
    timeout: options.timeout ?? 60_000,
    killSignal: 'SIGKILL',
    maxBuffer: MAX_OUTPUT,
  });
  if (error !== undefined && status === null && signal === null) throw error;
  if (signal === 'SIGKILL') throw new Error(`${path} ${args.join(' ')}: killed (timed out?)`);
  return {
    status: status ?? 128 + SIGNALS[signal as string],
    stdout,
    stderr: stderr.toString(),
    get text() {
      return stdout.toString();
    },
  };
}

const SIGNALS: Record<string, number> = { SIGHUP: 1, SIGINT: 2, SIGABRT: 6, SIGSEGV: 11, SIGPIPE: 13, SIGTERM: 15 };

/**
 * Making a LUKS container, qemu-img measures what the processor can do, and gives up where the clock of the processor's time has
 * not ticked meanwhile: tried again, it works.
 */
const BAD_LUCK = 'Unable to get accurate CPU usage';
const ATTEMPTS = 20;

function makeTool(name: string, path: string | null): Tool {
  const run = (args: readonly string[], options?: RunOptions) => {
    if (path === null) throw new Error(`${name} is not installed`);
    let result = runProgram(path, args, options);
    for (let attempt = 1; attempt < ATTEMPTS && result.stderr.includes(BAD_LUCK); attempt += 1) {
      result = runProgram(path, args, options);
    }
    return result;
  };
  return {
    name,
    available: path !== null,
    run,
    expect(args, options) {
      const result = run(args, options);
      if (result.status !== 0) throw new Error(`${name} ${args.join(' ')} exits ${result.status}: ${result.stderr}`);
      return result.text;
    },
    missing(t) {
      if (path !== null) return false;
      if (process.env.CI) t.fail(`${name} is not installed, and in CI nothing skips`);
      t.log(`skipped: ${name} is not installed`);
      t.pass();
      return true;
    },
  };
}

function locate(name: string): string | null {
  for (const directory of [...(process.env.PATH ?? '').split(delimiter), '/usr/sbin', '/sbin']) {
    const path = join(directory, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // not here
    }
  }
  return null;
}
