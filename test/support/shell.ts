import { spawnSync } from 'node:child_process';
import type { Program } from './program.ts';

export interface ShellResult {
  /** Exit codes of the last pipeline's commands. */
  statuses: number[];
  stdout: Buffer;
  stderr: string;
}

/** Runs bash scripts in a directory, in which `$IMGPIPE` is the program. */
export function shellIn(directory: string, program: Program, env: NodeJS.ProcessEnv = {}) {
  return (script: string): ShellResult => {
    const { stdout, stderr, error } = spawnSync('bash', ['-c', `${script}\necho "statuses: \${PIPESTATUS[@]}" >&2`], {
      cwd: directory,
      env: {
        ...process.env,
        NODE_V8_COVERAGE: '',
        LC_ALL: 'C',
        IMGPIPE: `${process.execPath} ${program.path}`,
        ...env,
      },
      timeout: 60_000,
      maxBuffer: 512 * 1024 * 1024,
    });
    if (error !== undefined) throw error;
    const said = stderr.toString();
    const at = said.lastIndexOf('statuses: ');
    if (at < 0) throw new Error(`The script ended early: ${said}`);
    const statuses = said.slice(at).trim().split(' ').slice(1).map(Number);
    return { statuses, stdout, stderr: said.slice(0, at) };
  };
}
