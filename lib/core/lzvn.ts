import { copyWithin } from './adc.ts';

/**
 * LZVN: literals and matches told by opcodes of one to three bytes. L bytes of literals follow the opcode, then M bytes
 * are copied from D back; some opcodes use the D before. Bits of the first byte:
 *
 *     LLMMMDDD DDDDDDDD           small distance (DDD below 6)
 *     LLMMM110                    the distance before
 *     LLMMM111 + 16 bits of D     large distance
 *     101LLMMM + DDDDDDMM DDDDDDDD  medium distance
 *     1110LLLL, 11100000 + L      literals alone
 *     1111MMMM, 11110000 + M      a match alone, from the distance before
 *     00000110                    end; 00001110 and 00010110 are nothing
 */
const END = 0x06;
const NOTHING = new Set([0x0e, 0x16]);
/** In lengths that take a byte of their own. */
const LARGE_BASE = 16;
const MIN_MATCH = 3;

/** The most bytes that a byte of payload can stand for: a match of 271 in two. */
export const LZVN_MAX_RATIO = 136;

/** Reads opcodes one by one; the last one's lengths and distance are in its fields. */
class Opcodes {
  readonly #input: Buffer;
  at = 0;
  literals = 0;
  match = 0;
  distance = 0;
  ended = false;

  constructor(input: Buffer) {
    this.#input = input;
  }

  /** False for an opcode that does not exist, or one that the input cuts off. */
  next(): boolean {
    const code = this.#input[this.at];
    this.literals = 0;
    this.match = 0;
    if (code === undefined) return false;
    if (code === END) {
      this.ended = true;
      return true;
    }
    if (NOTHING.has(code)) {
      this.at += 1;
      return true;
    }
    if (code >= 0xe0) return this.#single(code);
    if (code >= 0xa0 && code < 0xc0) return this.#medium(code);
    // What would be the small distances of 7x and Dx is not used.
    if ((code >= 0x70 && code < 0x80) || code >= 0xd0) return false;
    return this.#pair(code);
  }

  #single(code: number): boolean {
    const small = code & 0x0f;
    const length = small === 0 ? this.#input[this.at + 1] + LARGE_BASE : small;
    this.at += small === 0 ? 2 : 1;
    if (code >= 0xf0) this.match = length;
    else this.literals = length;
    return this.at <= this.#input.length;
  }

  #medium(code: number): boolean {
    const bits = this.#input[this.at + 1] + this.#input[this.at + 2] * 256;
    this.literals = (code >> 3) & 3;
    this.match = (((code & 7) << 2) | (bits & 3)) + MIN_MATCH;
    this.distance = bits >> 2;
    this.at += 3;
    return this.at <= this.#input.length;
  }

  #pair(code: number): boolean {
    const kind = code & 7;
    this.literals = code >> 6;
    this.match = ((code >> 3) & 7) + MIN_MATCH;
    if (kind === 6) {
      this.at += 1;
      return this.literals > 0;
    }
    if (kind === 7) {
      this.distance = this.#input[this.at + 1] + this.#input[this.at + 2] * 256;
      this.at += 3;
    } else {
      this.distance = kind * 256 + this.#input[this.at + 1];
      this.at += 2;
    }
    return this.at <= this.#input.length;
  }
}

/**
 * Decodes an LZVN block into `out` [start, end); matches may reach back to the start of `out`. False where the block is
 * damaged, or gives another number of bytes.
 */
export function decodeLzvn(input: Buffer, out: Buffer, start: number, end: number): boolean {
  const codes = new Opcodes(input);
  let filled = start;
  for (;;) {
    if (!codes.next()) return false;
    if (codes.ended) return filled === end;
    const { literals, match, distance } = codes;
    if (filled + literals + match > end || codes.at + literals > input.length) return false;
    if (literals > 0) {
      input.copy(out, filled, codes.at, codes.at + literals);
      codes.at += literals;
      filled += literals;
    }
    if (match === 0) continue;
    if (!(distance >= 1 && distance <= filled)) return false;
    copyWithin(out, filled, distance, match);
    filled += match;
  }
}
