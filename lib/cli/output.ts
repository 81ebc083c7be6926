import { writeSync } from 'node:fs';
import { fromSystemError } from '../core/errors.ts';
import { CommandError } from './errors.ts';

/** Nobody reads standard output any more: the program ends quietly, as if SIGPIPE had ended it. */
export class ClosedPipe extends Error {}

const STDOUT = 1;
const STDERR = 2;
const FLUSH_AT = 64 * 1024;

/**
 * The program's text output: standard output, collected and written in large pieces, and standard error at once.
 * Written synchronously, so that nothing is lost when the program ends and every failure is an error of the command.
 */
export class Output {
  readonly program: string;
  #pending = '';

  constructor(program: string) {
    this.program = program;
  }

  /** Text for standard output. */
  write(text: string): void {
    this.#pending += text;
    if (this.#pending.length >= FLUSH_AT) this.flush();
  }

  flush(): void {
    const text = this.#pending;
    this.#pending = '';
    if (text === '') return;
    try {
      writeAll(STDOUT, text);
    } catch (error) {
      const { code, message } = fromSystemError(error);
      if (code === 'EPIPE') throw new ClosedPipe();
      throw new CommandError(`Could not write to standard output: ${message}`);
    }
  }

  /** Text for standard error, as it is; follows what was written to standard output before. */
  writeError(text: string): void {
    this.flush();
    try {
      writeAll(STDERR, text);
    } catch {
      // There is no place left to complain.
    }
  }

  /** One message on standard error, behind the program's name. */
  complain(message: string): void {
    this.writeError(`${this.program}: ${message}\n`);
  }
}

/** A pipe that someone else made non-blocking says EAGAIN when it is full: wait for its reader. */
function writeAll(descriptor: number, text: string): void {
  const bytes = Buffer.from(text);
  for (let at = 0; at < bytes.length; ) {
    try {
      at += writeSync(descriptor, bytes, at);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error;
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);
    }
  }
}
