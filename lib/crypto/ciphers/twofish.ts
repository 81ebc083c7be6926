import type { BlockCipher } from './block-cipher.ts';

/**
 * Twofish ("Twofish: A 128-Bit Block Cipher", Schneier and others, 1998) with a key of 128, 192 or 256 bits. The four
 * key-dependent S-boxes and the MDS matrix are worked into four tables (the paper's "full keying").
 */
export function twofish(key: Uint8Array): BlockCipher {
  const words = Array.from({ length: key.length / 4 }, (_, index) => Buffer.from(key).readInt32LE(index * 4));
  const subkeys = makeSubkeys(words);
  const boxes = makeBoxes(key);
  return {
    blockSize: 16,
    encrypt: (blocks) => encrypt(blocks, subkeys, boxes),
    decrypt: (blocks) => decrypt(blocks, subkeys, boxes),
  };
}

const ROUNDS = 16;
/** Section 4.3.5: the tables t0 to t3 of the permutations q0 and q1, 4 bits to 4 bits. */
const Q_TABLES = [
  ['817D6F320B59ECA4', 'ECB81235F4A6709D', 'BA5E6D90C8F32471', 'D7F4126E9B3085CA'],
  ['28BDF76E31940AC5', '1E2B4C376DA5F908', '4C75169A0ED82B3F', 'B951C3DE647F208A'],
];
/** Section 4.3.2 and 4.3.3: the matrices, and the polynomials of their fields. */
const MDS = [
  [0x01, 0xef, 0x5b, 0x5b],
  [0x5b, 0xef, 0xef, 0x01],
  [0xef, 0x5b, 0x01, 0xef],
  [0xef, 0x01, 0xef, 0x5b],
];
const MDS_FIELD = 0x169;
const RS = [
  [0x01, 0xa4, 0x55, 0x87, 0x5a, 0x58, 0xdb, 0x9e],
  [0xa4, 0x56, 0x82, 0xf3, 0x1e, 0xc6, 0x68, 0xe5],
  [0x02, 0xa1, 0xfc, 0xc1, 0x47, 0xae, 0x3d, 0x19],
  [0xa4, 0x55, 0x87, 0x5a, 0x58, 0xdb, 0x9e, 0x03],
];
const RS_FIELD = 0x14d;

/** q0 and q1 as tables of 256 bytes. */
const Q = Q_TABLES.map((texts) => {
  const [t0, t1, t2, t3] = texts.map((text) => [...text].map((digit) => Number.parseInt(digit, 16)));
  return Uint8Array.from({ length: 256 }, (_, x) => {
    const [a, b] = mixNibbles(x >> 4, x & 15);
    const [c, d] = mixNibbles(t0[a], t1[b]);
    return (t3[d] << 4) | t2[c];
  });
});

function mixNibbles(a: number, b: number): [number, number] {
  const rotated = (b >> 1) | ((b & 1) << 3);
  return [a ^ b, a ^ rotated ^ ((8 * a) & 15)];
}

/** Which of q0 and q1 a byte of a word goes through, from the last stage of h to the first (figure 2). */
const STAGES = [
  [1, 0, 1, 0],
  [0, 0, 1, 1],
  [0, 1, 0, 1],
  [1, 1, 0, 0],
  [1, 0, 0, 1],
];

/** One byte's way through h: `list` are the words that it is XORed with, the first one last. */
function substitute(byte: number, lane: number, list: readonly number[]): number {
  let value = byte;
  for (let stage = list.length; stage > 0; stage -= 1) {
    value = Q[STAGES[stage][lane]][value] ^ ((list[stage - 1] >>> (8 * lane)) & 0xff);
  }
  return Q[STAGES[0][lane]][value];
}

/** What a byte adds to the word that the MDS matrix gives. */
function spread(byte: number, lane: number): number {
  let word = 0;
  for (let row = 0; row < 4; row += 1) word |= multiply(byte, MDS[row][lane], MDS_FIELD) << (8 * row);
  return word;
}

/** In GF(2^8) with the polynomial `field`. */
function multiply(a: number, b: number, field: number): number {
  let product = 0;
  for (let [x, y] = [a, b]; y > 0; y >>= 1) {
    if (y & 1) product ^= x;
    x <<= 1;
    if (x & 0x100) x ^= field;
  }
  return product;
}

/** The function h (section 4.3.5) of a word whose bytes are all `byte`. */
function h(byte: number, list: readonly number[]): number {
  let word = 0;
  for (let lane = 0; lane < 4; lane += 1) word ^= spread(substitute(byte, lane, list), lane);
  return word;
}

/** The 40 subkeys (section 4.3.4): 4 before the first round, 4 after the last, 2 of each. */
function makeSubkeys(words: readonly number[]): Int32Array {
  const even = words.filter((_, index) => index % 2 === 0);
  const odd = words.filter((_, index) => index % 2 === 1);
  const subkeys = new Int32Array(8 + 2 * ROUNDS);
  for (let at = 0; at < subkeys.length; at += 2) {
    const a = h(at, even);
    const b = rotate(h(at + 1, odd), 8);
    subkeys[at] = a + b;
    subkeys[at + 1] = rotate((a + 2 * b) | 0, 9);
  }
  return subkeys;
}

/** g (section 4.3.1) as four tables: what each byte of its argument adds to its value. */
function makeBoxes(key: Uint8Array): Int32Array {
  const list: number[] = [];
  for (let at = 0; at < key.length; at += 8) list.unshift(reedSolomon(key.subarray(at, at + 8)));
  const boxes = new Int32Array(4 * 256);
  for (let lane = 0; lane < 4; lane += 1) {
    for (let byte = 0; byte < 256; byte += 1) {
      boxes[lane * 256 + byte] = spread(substitute(byte, lane, list), lane);
    }
  }
  return boxes;
}

function reedSolomon(bytes: Uint8Array): number {
  let word = 0;
  for (let row = 0; row < 4; row += 1) {
    let sum = 0;
    for (let column = 0; column < 8; column += 1) sum ^= multiply(bytes[column], RS[row][column], RS_FIELD);
    word |= sum << (8 * row);
  }
  return word;
}

function rotate(word: number, by: number): number {
  return (word << by) | (word >>> (32 - by));
}

function g(box: Int32Array, word: number): number {
  return (
    box[word & 0xff] ^ box[256 + ((word >>> 8) & 0xff)] ^ box[512 + ((word >>> 16) & 0xff)] ^ box[768 + (word >>> 24)]
  );
}

/** Section 4: two rounds at a time, so that halves need no swapping. */
function encrypt(blocks: Buffer, k: Int32Array, box: Int32Array): Buffer {
  const view = new DataView(blocks.buffer, blocks.byteOffset, blocks.length);
  for (let at = 0; at < blocks.length; at += 16) {
    let a = view.getInt32(at, true) ^ k[0];
    let b = view.getInt32(at + 4, true) ^ k[1];
    let c = view.getInt32(at + 8, true) ^ k[2];
    let d = view.getInt32(at + 12, true) ^ k[3];
    for (let key = 8; key < 40; key += 4) {
      let s = g(box, a);
      let t = g(box, rotate(b, 8));
      c = rotate(c ^ (s + t + k[key]), 31);
      d = rotate(d, 1) ^ (s + (t << 1) + k[key + 1]);
      s = g(box, c);
      t = g(box, rotate(d, 8));
      a = rotate(a ^ (s + t + k[key + 2]), 31);
      b = rotate(b, 1) ^ (s + (t << 1) + k[key + 3]);
    }
    view.setInt32(at, c ^ k[4], true);
    view.setInt32(at + 4, d ^ k[5], true);
    view.setInt32(at + 8, a ^ k[6], true);
    view.setInt32(at + 12, b ^ k[7], true);
  }
  return blocks;
}

/** The same backwards. */
function decrypt(blocks: Buffer, k: Int32Array, box: Int32Array): Buffer {
  const view = new DataView(blocks.buffer, blocks.byteOffset, blocks.length);
  for (let at = 0; at < blocks.length; at += 16) {
    let c = view.getInt32(at, true) ^ k[4];
    let d = view.getInt32(at + 4, true) ^ k[5];
    let a = view.getInt32(at + 8, true) ^ k[6];
    let b = view.getInt32(at + 12, true) ^ k[7];
    for (let key = 36; key >= 8; key -= 4) {
      let s = g(box, c);
      let t = g(box, rotate(d, 8));
      a = rotate(a, 1) ^ (s + t + k[key + 2]);
      b = rotate(b ^ (s + (t << 1) + k[key + 3]), 31);
      s = g(box, a);
      t = g(box, rotate(b, 8));
      c = rotate(c, 1) ^ (s + t + k[key]);
      d = rotate(d ^ (s + (t << 1) + k[key + 1]), 31);
    }
    view.setInt32(at, a ^ k[0], true);
    view.setInt32(at + 4, b ^ k[1], true);
    view.setInt32(at + 8, c ^ k[2], true);
    view.setInt32(at + 12, d ^ k[3], true);
  }
  return blocks;
}
