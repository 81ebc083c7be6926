import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import { checkToJson, renderCheck, renderRepairs } from '../../lib/cli/render/check.ts';
import type { Json } from '../../lib/cli/render/json.ts';
import { ImageError } from '../../lib/core/errors.ts';
import { CHECK_OPERATION, type CheckResult, check } from '../../lib/edits/check.ts';
import { tool } from './tools.ts';

/** What one check of an image said. */
export interface Said {
  stdout: string;
  stderr: string;
  /** Null where the check could not be done. */
  report: CheckResult | null;
}

/** Checks a file with the library, and words it as the command does. */
export async function checkSaid(path: string, format: string, repair: 'leaks' | 'all' | null): Promise<Said> {
  const [stdout, stderr]: string[][] = [[], []];
  try {
    const report = await check({
      image: path,
      format,
      repair,
      onFinding: (line, named) => stderr.push(`${named === true ? 'qemu-img: ' : ''}${line}\n`),
      onRepaired: (each) => stdout.push(renderRepairs(each)),
    });
    stdout.push(renderCheck(report));
    return { stdout: stdout.join(''), stderr: stderr.join(''), report };
  } catch (error) {
    if (!(error instanceof ImageError)) throw error;
    const failed = error.operation === CHECK_OPERATION && error.kind !== 'unsupported';
    stderr.push(`qemu-img: ${failed ? 'Check failed: ' : ''}${error.message}\n`);
    return { stdout: stdout.join(''), stderr: stderr.join(''), report: null };
  }
}

/** A number of one, two, four or eight bytes, little-endian: width, offset, value. */
export type Patch = readonly [1 | 2 | 4 | 8, number, number];

export function patched(bytes: Buffer, patches: readonly Patch[], size = bytes.length): Buffer {
  const copy = Buffer.alloc(Math.max(size, bytes.length));
  bytes.copy(copy);
  for (const [width, offset, value] of patches) {
    if (width === 8) copy.writeBigUInt64LE(BigInt(value), offset);
    else copy.writeUIntLE(value, offset, width);
  }
  return copy.subarray(0, size);
}

/** What `qemu-img check` says of the file. */
export function qemuCheck(path: string, format: string, options: readonly string[] = []) {
  return tool('qemu-img').run(['check', ...options, '-f', format, path]);
}

export interface Compared {
  /** For messages. */
  name: string;
  format: string;
  bytes: Buffer;
  repair?: 'leaks' | 'all' | null;
}

/** Fails unless both say the same of these bytes, for people and as JSON, with that repair or none. */
export async function sameCheck(
  t: ExecutionContext,
  directory: string,
  { name, format, bytes, repair = null }: Compared,
): Promise<Said> {
  const path = join(directory, `checked.${format}`);
  const options = repair === null ? [] : ['-r', repair];
  writeFileSync(path, bytes);
  const theirs = qemuCheck(path, format, options);
  if (repair === null && theirs.status !== 1) {
    const json = JSON.parse(qemuCheck(path, format, ['--output=json']).text);
    const { report } = await checkSaid(path, format, null);
    t.deepEqual(report && withoutGaps(checkToJson(path, report)), json, name);
  }
  writeFileSync(path, bytes);
  const ours = await checkSaid(path, format, repair);
  t.is(ours.stderr, theirs.stderr, name);
  t.is(ours.stdout, theirs.text, name);
  return ours;
}

function withoutGaps(json: Json): unknown {
  return JSON.parse(JSON.stringify(json));
}
