import { execFile } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';
import test from 'ava';
import { tool } from './support/tools.ts';

const execute = promisify(execFile);
const root = resolve(import.meta.dirname, '..');

interface Block {
  language: string;
  code: string;
  line: number;
}

/** The fenced blocks of a Markdown text; blocks in other languages than sh and js are prose. */
function blocksOf(markdown: string): Block[] {
  const blocks: Block[] = [];
  for (const match of markdown.matchAll(/^```(\w+)\n(.*?)^```$/gms)) {
    blocks.push({ language: match[1], code: match[2], line: markdown.slice(0, match.index).split('\n').length });
  }
  return blocks;
}

/** A directory with what the README's examples take for granted: the program, the package, a disk. */
async function sandbox(): Promise<{ directory: string; environment: NodeJS.ProcessEnv }> {
  const directory = mkdtempSync(join(tmpdir(), 'imgpipe-readme-'));
  mkdirSync(join(directory, 'node_modules'));
  mkdirSync(join(directory, 'bin'));
  symlinkSync(root, join(directory, 'node_modules', 'imgpipe'));
  symlinkSync(join(root, 'dist', 'imgpipe.cjs'), join(directory, 'bin', 'imgpipe'));
  const environment = { ...process.env, PATH: `${join(directory, 'bin')}:${process.env.PATH}`, NODE_V8_COVERAGE: '' };
  const fixture = join(root, 'fixtures', 'ext4.raw.gz');
  await execute(
    'bash',
    ['-ec', `cp ${fixture} disk.raw.gz; zcat disk.raw.gz | dd of=disk.raw conv=sparse bs=4k status=none`],
    {
      cwd: directory,
    },
  );
  return { directory, environment };
}

test('every sh and js example of the README runs', async (t) => {
  t.timeout(180_000);
  for (const name of ['bash', 'gzip', 'tar']) if (tool(name).missing(t)) return;
  const { directory, environment } = await sandbox();
  t.teardown(() => rmSync(directory, { recursive: true, force: true }));
  const blocks = blocksOf(readFileSync(join(root, 'README.md'), 'utf8'));
  t.true(blocks.length > 1);
  const failures: string[] = [];
  for (const { language, code, line } of blocks) {
    if (language !== 'sh' && language !== 'js') continue;
    const script = join(directory, language === 'js' ? 'example.mjs' : 'example.sh');
    writeFileSync(script, code);
    const command = language === 'js' ? [process.execPath, script] : ['bash', '-e', '-o', 'pipefail', script];
    try {
      await execute(command[0], command.slice(1), { cwd: directory, env: environment });
    } catch (error) {
      failures.push(`README.md:${line}: ${(error as { stderr?: string }).stderr ?? error}`);
    }
  }
  t.deepEqual(failures, []);
});
