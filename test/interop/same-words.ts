import type { ExecutionContext } from 'ava';
import type { Program } from '../support/program.ts';
import { tool } from '../support/tools.ts';

/** A path stands for the image in these lines: `info --output=json {}`. */
const VERBS = ['info {}', 'info --output=json {}', 'map {}', 'map --output=json {}', 'measure -O qcow2 {}'];

/** Runs `line` with the program and with qemu-img, and fails unless output, messages and exit code are the same. */
export function sameAsQemu(t: ExecutionContext, program: Program, line: string, path: string, drop?: RegExp): void {
  const args = line.split(' ').map((word) => (word === '{}' ? path : word));
  const ours = program.run(args);
  const theirs = tool('qemu-img').run(args);
  const said = (text: string) => (drop === undefined ? text : text.replace(drop, ''));
  const about = `qemu-img ${args.join(' ')}`;
  t.is(said(ours.stderr), said(theirs.stderr), about);
  t.is(ours.text, theirs.text, about);
  t.is(ours.status, theirs.status, about);
}

/** What can be asked of an image that nobody writes, in qemu-img's words. */
export function sameReading(t: ExecutionContext, program: Program, path: string, drop?: RegExp): void {
  for (const verb of VERBS) sameAsQemu(t, program, verb, path, drop);
}

/** Every way to make one, or to write to one, is refused in qemu-img's words, and the image stays as it was. */
export function sameRefusals(t: ExecutionContext, program: Program, format: string, paths: Paths, drop?: RegExp): void {
  const lines = [
    `create -f ${format} ${paths.fresh} 1M`,
    `create -f ${format} -o help`,
    `convert -f raw -O ${format} ${paths.raw} ${paths.fresh}`,
    `convert -n -f raw -O ${format} ${paths.raw} {}`,
    `measure -O ${format} --size 1M`,
    `dd -f raw -O ${format} if=${paths.raw} of=${paths.fresh}`,
  ];
  for (const line of lines) sameAsQemu(t, program, line, paths.image, drop);
}

export interface Paths {
  image: string;
  raw: string;
  /** Where nothing is yet. */
  fresh: string;
}

/** The image with one number changed: offset, bytes, value. */
export function patched(
  bytes: Buffer,
  [offset, width, value]: readonly [number, 4 | 8, bigint],
  order: 'little' | 'big',
): Buffer {
  const copy = Buffer.from(bytes);
  const at = order === 'little' ? offset : offset + width;
  for (let index = 0; index < width; index += 1) {
    const byte = Number((value >> BigInt(8 * index)) & 0xffn);
    copy[order === 'little' ? at + index : at - 1 - index] = byte;
  }
  return copy;
}
