// Builds dist/: the library (JavaScript and types) by tsc, the program as one CommonJS bundle by esbuild.
// One file, because resolving and reading many modules is most of what a short command's start-up costs;
// CommonJS, because UV_THREADPOOL_SIZE must be set before the first asynchronous call, which an ES module
// entry has already made. Commands stay lazy: `import()` inside the bundle evaluates on first use.
import { execFileSync } from 'node:child_process';
import { chmodSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
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
await build({
  entryPoints: ['lib/cli/main.ts'],
  outfile: 'dist/imgpipe.cjs',
  bundle: true,
  platform: 'node',
  format: 'cjs',
  target: 'node20',
  minifySyntax: true,
  minifyWhitespace: true,
  external: native,
  define: { IMGPIPE_VERSION: JSON.stringify(version) },
  logLevel: 'warning',
});
chmodSync('dist/imgpipe.cjs', 0o755);
