// Builds dist/: the library (JavaScript and types) by tsc, the program as one CommonJS bundle by esbuild, a launcher
// for it, and V8's code cache.
// One file, because resolving and reading many modules is most of what a short command's start-up costs;
// CommonJS, because UV_THREADPOOL_SIZE must be set before the first asynchronous call, which an ES module
// entry has already made. Commands stay lazy: `import()` inside the bundle evaluates on first use.
import { execFileSync } from 'node:child_process';
import { chmodSync, copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { build } from 'esbuild';

const { version, dependencies, optionalDependencies } = JSON.parse(readFileSync('package.json', 'utf8'));
const native = ['koffi', '@mongodb-js/zstd', ...Object.keys(optionalDependencies)];
for (const name of native) {
  if (!(name in dependencies) && !(name in optionalDependencies)) throw new Error(`${name} is no dependency`);
}

rmSync('dist', { recursive: true, force: true });
const tsc = createRequire(import.meta.url)
  .resolve('typescript/package.json')
  .replace(/package\.json$/, 'bin/tsc');
execFileSync(process.execPath, [tsc, '-p', 'tsconfig.build.json'], { stdio: 'inherit' });
const bundling = {
  bundle: true,
  platform: 'node',
  format: 'cjs',
  target: 'node20',
  minifySyntax: true,
  minifyWhitespace: true,
  logLevel: 'warning',
};
// A thread's program is a file of its own, which the bundle is told the name of.
const threads = { IMGPIPE_CIPHER_WORKER: 'worker', IMGPIPE_ARGON2_WORKER: 'argon2-worker' };
const define = { IMGPIPE_VERSION: JSON.stringify(version) };
for (const [name, source] of Object.entries(threads)) {
  const file = `thread-${source}.cjs`;
  await build({ ...bundling, entryPoints: [`lib/crypto/threads/${source}.ts`], outfile: `dist/${file}` });
  define[name] = JSON.stringify(file);
}
await build({
  ...bundling,
  entryPoints: ['lib/cli/main.ts'],
  outfile: 'dist/program.js',
  // The launcher's script has nobody to ask for modules at run time: native packages come by `require`.
  supported: { 'dynamic-import': false },
  external: native,
  // The bundle knows where its files are; only what runs from dist/lib asks import.meta.
  logOverride: { 'empty-import-meta': 'silent' },
  define,
});
copyFileSync('scripts/launcher.cjs', 'dist/imgpipe.cjs');
chmodSync('dist/imgpipe.cjs', 0o755);
makeCodeCache();

/**
 * Runs the usual commands, each with the cache of those before it, so that the functions that they call are in it
 * compiled. V8 checks by itself that a cache is its own.
 */
function makeCodeCache() {
  const directory = mkdtempSync(join(tmpdir(), 'imgpipe-build-'));
  const [raw, qcow2] = [join(directory, 'raw'), join(directory, 'qcow2')];
  writeFileSync(raw, Buffer.alloc(1024 * 1024, 1));
  const commands = [
    ['convert', '-O', 'qcow2', raw, qcow2],
    ['info', qcow2],
    ['map', '--output=json', qcow2],
    ['compare', raw, qcow2],
  ];
  for (const args of commands) execFileSync(process.execPath, ['scripts/code-cache.cjs', ...args], { stdio: 'ignore' });
  rmSync(directory, { recursive: true });
}
