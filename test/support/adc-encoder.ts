import { tokensOf } from './lz-tokens.ts';

const SHORT_DISTANCE = 1024;

/** Bytes as Apple Data Compression, with all three kinds of codes. */
export function encodeAdc(bytes: Buffer): Buffer {
  const out: number[] = [];
  for (const { literals, length, distance } of tokensOf(bytes, {
    minMatch: 4,
    maxMatch: 67,
    maxDistance: 65536,
    maxLiterals: 128,
  })) {
    if (literals.length > 0) out.push(0x80 | (literals.length - 1), ...literals);
    if (length === 0) continue;
    const back = distance - 1;
    if (length <= 18 && distance <= SHORT_DISTANCE) out.push(((length - 3) << 2) | (back >> 8), back & 0xff);
    else out.push(0x40 | (length - 4), back >> 8, back & 0xff);
  }
  return Buffer.from(out);
}
