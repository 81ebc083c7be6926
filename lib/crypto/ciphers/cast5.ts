import type { BlockCipher } from './block-cipher.ts';
import { CAST5_BOXES } from './cast5-boxes.ts';

/** Rounds of keys longer than 80 bits; ours have 128. */
const ROUNDS = 16;

/** S1 to S4, then S5 to S8, which the key schedule uses: 256 words each. */
let boxes: { round: Int32Array; schedule: Int32Array } | null = null;

/** CAST-128 with a key of 128 bits (RFC 2144). */
export function cast5(key: Uint8Array): BlockCipher {
  boxes ??= { round: decodeBoxes(CAST5_BOXES.slice(0, 4)), schedule: decodeBoxes(CAST5_BOXES.slice(4)) };
  const forward = makeSubkeys(key, boxes.schedule);
  const backward = { masks: forward.masks.toReversed(), rotations: forward.rotations.toReversed() };
  const { round } = boxes;
  return {
    blockSize: 8,
    encrypt: (blocks) => apply(blocks, forward, round, [0, 1, 2]),
    // The rounds the other way round: the 16th is of the first kind.
    decrypt: (blocks) => apply(blocks, backward, round, [0, 2, 1]),
  };
}

function decodeBoxes(texts: readonly string[]): Int32Array {
  const bytes = Buffer.concat(texts.map((text) => Buffer.from(text, 'base64')));
  return Int32Array.from({ length: bytes.length / 4 }, (_, index) => bytes.readInt32BE(index * 4));
}

/** Of each round (section 2.3): Km is added, XORed or subtracted, and Kr rotates. */
interface Subkeys {
  masks: Int32Array;
  rotations: Int32Array;
}

/**
 * Section 2.4 as a table. Each of the four words of z is made of those of x, or the other way round: which word of the
 * other side is XORed with S5, S6, S7 and S8 of which bytes, and with S7, S8, S5 or S6 of a fifth byte.
 */
const MAKE_Z = ['0 DFCE8', '2 0213A', '3 76549', '1 A9B8B'];
const MAKE_X = ['2 57460', '0 02132', '1 76541', '3 A9B83'];
/** Then four subkeys of it: S5, S6, S7, S8 of which bytes, and S5, S6, S7 or S8 of a fifth. */
const SUBKEYS = [
  ['89762', 'AB546', 'CD329', 'EF10C'],
  ['32CD8', '10EFD', '76893', '54AB7'],
  ['32CD9', '10EFC', '76892', '54AB6'],
  ['89763', 'AB547', 'CD328', 'EF10D'],
];

function makeSubkeys(key: Uint8Array, box: Int32Array): Subkeys {
  const x = Buffer.from(key);
  const z = Buffer.alloc(16);
  const all: number[] = [];
  for (let half = 0; half < 2; half += 1) {
    for (const [step, subkeys] of SUBKEYS.entries()) {
      const [made, other, recipe] = step % 2 === 0 ? [z, x, MAKE_Z] : [x, z, MAKE_X];
      mix(made, other, recipe, box);
      for (const [index, bytes] of subkeys.entries()) {
        const values = [...bytes].map((digit) => made[Number.parseInt(digit, 16)]);
        all.push(substitute(box, values, index));
      }
    }
  }
  const masks = Int32Array.from(all.slice(0, ROUNDS));
  return { masks, rotations: Int32Array.from(all.slice(ROUNDS), (subkey) => subkey & 31) };
}

function mix(made: Buffer, other: Buffer, recipe: readonly string[], box: Int32Array): void {
  for (const [word, line] of recipe.entries()) {
    const from = Number(line[0]);
    const digits = [...line.slice(2)].map((digit) => Number.parseInt(digit, 16));
    // The first word is made of the other side alone; each next one also of the word before it.
    const side = word === 0 ? other : made;
    const values = digits.map((digit, index) => (index < 4 ? side : other)[digit]);
    made.writeInt32BE(other.readInt32BE(from * 4) ^ substitute(box, values, (word + 2) % 4), word * 4);
  }
}

/** S5, S6, S7 and S8 of four bytes, XORed, and with them one of the four again of a fifth. */
function substitute(box: Int32Array, values: readonly number[], extra: number): number {
  const four = box[values[0]] ^ box[256 + values[1]] ^ box[512 + values[2]] ^ box[768 + values[3]];
  return four ^ box[extra * 256 + values[4]];
}

/**
 * Section 2.2 on each block where it lies; `kinds` are the functions of the rounds in turn. A round waits for the one
 * before it, so that two blocks at a time take hardly longer than one.
 */
function apply(blocks: Buffer, { masks, rotations }: Subkeys, box: Int32Array, kinds: readonly number[]): Buffer {
  const view = new DataView(blocks.buffer, blocks.byteOffset, blocks.length);
  for (let at = 0; at < blocks.length; at += 16) {
    // The last of an odd number goes together with itself.
    const other = Math.min(at + 8, blocks.length - 8);
    let left = view.getInt32(at);
    let right = view.getInt32(at + 4);
    let otherLeft = view.getInt32(other);
    let otherRight = view.getInt32(other + 4);
    for (let round = 0; round < ROUNDS; round += 1) {
      const kind = kinds[round % 3];
      const mask = masks[round];
      const rotation = rotations[round];
      const next = left ^ mangle(kind, right, mask, rotation, box);
      const otherNext = otherLeft ^ mangle(kind, otherRight, mask, rotation, box);
      left = right;
      right = next;
      otherLeft = otherRight;
      otherRight = otherNext;
    }
    view.setInt32(at, right);
    view.setInt32(at + 4, left);
    view.setInt32(other, otherRight);
    view.setInt32(other + 4, otherLeft);
  }
  return blocks;
}

/** The functions f of section 2.2. */
function mangle(kind: number, half: number, mask: number, rotation: number, box: Int32Array): number {
  const mixed = kind === 0 ? (mask + half) | 0 : kind === 1 ? mask ^ half : (mask - half) | 0;
  const input = (mixed << rotation) | (mixed >>> (32 - rotation));
  const a = box[input >>> 24];
  const b = box[256 + ((input >>> 16) & 0xff)];
  const c = box[512 + ((input >>> 8) & 0xff)];
  const d = box[768 + (input & 0xff)];
  if (kind === 0) return ((a ^ b) - c + d) | 0;
  if (kind === 1) return ((a - b + c) | 0) ^ d;
  return (((a + b) ^ c) - d) | 0;
}
