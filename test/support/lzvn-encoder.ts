import { type Token, tokensOf } from './lz-tokens.ts';

const END = [0x06, 0, 0, 0, 0, 0, 0, 0];

/** Bytes as the opcodes of LZVN, with every kind of them where the data give cause. */
export function encodeLzvn(bytes: Buffer): Buffer {
  const out: number[] = [0x0e];
  let last = 0;
  for (const token of tokensOf(bytes, { minMatch: 4, maxMatch: 271, maxDistance: 65535, maxLiterals: 271 })) {
    last = put(token, last, out);
  }
  return Buffer.from([...out, 0x16, ...END]);
}

/** The distance that is then the last one. */
function put({ literals, length, distance }: Token, last: number, out: number[]): number {
  // Up to three literals stand with the match; more have opcodes of their own.
  const together = length === 0 ? 0 : Math.min(3, literals.length % 4);
  const alone = literals.subarray(0, literals.length - together);
  if (alone.length >= 16) out.push(0xe0, alone.length - 16);
  else if (alone.length > 0) out.push(0xe0 | alone.length);
  out.push(...alone);
  if (length === 0) return last;
  const beside = literals.subarray(literals.length - together);
  const first = putMatch(beside, { length, distance, last }, out);
  for (let rest = length - first; rest > 0; ) {
    const part = Math.min(rest, 271);
    if (part >= 16) out.push(0xf0, part - 16);
    else out.push(0xf0 | part);
    rest -= part;
  }
  return distance;
}

/** One opcode with its literals; returns how much of the match it makes. */
function putMatch(
  literals: Buffer,
  { length, distance, last }: { length: number; distance: number; last: number },
  out: number[],
): number {
  const many = literals.length;
  const most = many === 3 ? 4 : many === 2 ? 6 : many === 1 ? 8 : 10;
  const fits = Math.min(length, most);
  const code = (many << 6) | ((fits - 3) << 3);
  if (distance === last && many > 0) {
    out.push(code | 6, ...literals);
    return fits;
  }
  if (distance < 1536) {
    out.push(code | (distance >> 8), distance & 0xff, ...literals);
    return fits;
  }
  if (distance < 16384) {
    const medium = Math.min(length, 34);
    const bits = (distance << 2) | ((medium - 3) & 3);
    out.push(0xa0 | (many << 3) | ((medium - 3) >> 2), bits & 0xff, bits >> 8, ...literals);
    return medium;
  }
  out.push(code | 7, distance & 0xff, distance >> 8, ...literals);
  return fits;
}
