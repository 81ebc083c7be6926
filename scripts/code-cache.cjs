// Runs the built program with the command line given, and keeps what V8 has compiled by its end: see build.mjs.
const { writeFileSync } = require('node:fs');
const { join } = require('node:path');

const launcher = join(__dirname, '../dist/imgpipe.cjs');
process.argv[1] = launcher;
const { script } = require(launcher);
process.on('exit', () => {
  writeFileSync(join(__dirname, '../dist/program.cache'), script.createCachedData());
});
