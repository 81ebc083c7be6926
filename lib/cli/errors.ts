/** A command ends with this message on standard error and this exit code. */
export class CommandError extends Error {
  readonly exitCode: number;

  constructor(message: string, exitCode = 1) {
    super(message);
    this.name = 'CommandError';
    this.exitCode = exitCode;
  }
}

/** A command line that makes no sense: the message, and a hint at `--help`. */
export class UsageError extends CommandError {
  constructor(message: string) {
    super(message);
    this.name = 'UsageError';
  }
}

/** Not an error: the command has nothing more to do (`-h`, `-o help`); `exitCode` as the oracle has it. */
export class Done extends Error {
  readonly exitCode: number;

  constructor(exitCode = 0) {
    super('done');
    this.name = 'Done';
    this.exitCode = exitCode;
  }
}

/** `-h`: the help is to be printed; exit code 0. */
export class HelpWanted extends Error {}
