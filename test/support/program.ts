import { mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { build } from 'esbuild';
import { type RunOptions, runProgram, type ToolResult } from './tools.ts';

/** The program under test, bundled as it is published. */
export interface Program {
  /** The bundle's path, and that of a link to it with another name. */
  readonly path: string;
  /** Runs it as `name`, a link to it (default: `qemu-img`, so that messages compare). */
  run(args: readonly string[], options?: RunOptions & { name?: string }): ToolResult;
  /** A link to the bundle under another name. */
  link(name: string): string;
  remove(): void;
}

/** The programs of threads, and by which names the bundle knows their files. */
const THREADS = { IMGPIPE_CIPHER_WORKER: 'worker', IMGPIPE_ARGON2_WORKER: 'argon2-worker' };

/** Bundles lib/cli into a temporary directory; `remove` it at the end. */
export async function bundleProgram(): Promise<Program> {
  const directory = mkdtempSync(join(tmpdir(), 'imgpipe-program-'));
  const path = join(directory, 'imgpipe.cjs');
  const bundling = { bundle: true, platform: 'node', format: 'cjs', target: 'node20', logLevel: 'error' } as const;
  const define: Record<string, string> = { IMGPIPE_VERSION: '"0.0.0-test"' };
  for (const [name, thread] of Object.entries(THREADS)) {
    const outfile = join(directory, `${thread}.cjs`);
    await build({ ...bundling, entryPoints: [`lib/crypto/threads/${thread}.ts`], outfile });
    define[name] = JSON.stringify(`${thread}.cjs`);
  }
  const external = ['koffi', '@mongodb-js/zstd', 'zlib-sync'];
  await build({ ...bundling, entryPoints: ['lib/cli/main.ts'], outfile: path, external, define });
  // The bundle lies outside the package; its native dependencies do not.
  symlinkSync(resolve('node_modules'), join(directory, 'node_modules'));
  const links = new Map<string, string>();
  const link = (name: string) => {
    let made = links.get(name);
    if (made === undefined) {
      made = join(directory, name);
      symlinkSync(path, made);
      links.set(name, made);
    }
    return made;
  };
  return {
    path,
    link,
    run(args, { name = 'qemu-img', ...options } = {}) {
      const script = name === 'imgpipe.cjs' ? path : link(name);
      return runProgram(process.execPath, [script, ...args], options);
    },
    remove: () => rmSync(directory, { recursive: true, force: true }),
  };
}
