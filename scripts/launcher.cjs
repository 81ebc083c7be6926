#!/usr/bin/env node
// Becomes dist/imgpipe.cjs: runs the program beside it, with V8's compiled form of it if there is one that fits. Compiling
// half a megabyte of source is otherwise most of what a short command costs. A cache of another Node, or
// none, costs only that time.
const { readFileSync } = require('node:fs');
const { join } = require('node:path');
const { Script } = require('node:vm');

const filename = join(__dirname, 'program.js');

/** Compiles the program; `cachedData` undefined: from its source alone. */
function compile(cachedData) {
  // The bundle is ASCII, and V8 is quicker with one byte a character.
  const source = readFileSync(filename, 'latin1');
  const wrapped = `(function (exports, require, module, __filename, __dirname) {${source}\n})`;
  return new Script(wrapped, { filename, cachedData });
}

function readCache() {
  try {
    return readFileSync(join(__dirname, 'program.cache'));
  } catch {
    return undefined;
  }
}

const script = compile(readCache());
const program = { exports: {} };
script.runInThisContext()(program.exports, require, program, filename, __dirname);

// For scripts/build.mjs, which makes the cache.
exports.script = script;
