import { ImageError } from '../../core/errors.ts';
import { PIECE } from '../modes/mode.ts';
import {
  advance,
  and,
  andNot,
  type Code,
  constant,
  get,
  instantiate,
  load,
  loadSplat,
  not,
  or,
  repeat,
  rotateLeft32,
  set,
  shiftLeft32,
  shuffle,
  store,
  type WasmFunction,
  type WasmInstance,
  xor,
} from '../wasm/assembler.ts';
import type { BlockCipher } from './block-cipher.ts';
import { type Gate, INVERSE_CIRCUITS, parseCircuit, SERPENT_BOXES, SERPENT_CIRCUITS } from './serpent-boxes.ts';

const BLOCK = 16;
const ROUNDS = 32;
/** A vector holds one word of this many blocks. */
const LANES = 4;
const KEY_BYTES = (ROUNDS + 1) * BLOCK;
/** Where the blocks are in the memory: behind the subkeys. */
const BLOCKS_AT = 1024;

/**
 * Serpent ("Serpent: A Proposal for the Advanced Encryption Standard", Anderson, Biham, Knudsen, 1998) with a key of
 * 128, 192 or 256 bits, in bitslice mode: an S-box is a circuit of some twenty operations on whole words. WebAssembly's
 * vectors do four blocks at a time.
 */
export function serpent(key: Uint8Array): BlockCipher {
  const subkeys = makeSubkeys(key);
  return {
    blockSize: BLOCK,
    encrypt: (blocks) => apply('encrypt', subkeys, blocks),
    decrypt: (blocks) => apply('decrypt', subkeys, blocks),
  };
}

let shared: WasmInstance | null = null;

function apply(name: 'encrypt' | 'decrypt', subkeys: Buffer, blocks: Buffer): Buffer {
  shared ??= makeInstance();
  const { memory, functions } = shared;
  memory.set(subkeys);
  for (let at = 0; at < blocks.length; at += PIECE) {
    const piece = blocks.subarray(at, at + PIECE);
    memory.set(piece, BLOCKS_AT);
    functions[name](BLOCKS_AT, Math.ceil(piece.length / (BLOCK * LANES)));
    piece.set(memory.subarray(BLOCKS_AT, BLOCKS_AT + piece.length));
  }
  return blocks;
}

function makeInstance(): WasmInstance {
  try {
    return instantiate([encryptFunction(), decryptFunction()], BLOCKS_AT + PIECE);
  } catch (cause) {
    throw new ImageError('unsupported', 'Serpent needs WebAssembly with vectors', { cause });
  }
}

const GOLDEN_RATIO = 0x9e3779b9;

/** The 33 subkeys (section 4), little-endian. */
function makeSubkeys(key: Uint8Array): Buffer {
  const padded = Buffer.alloc(32);
  padded.set(key);
  if (key.length < padded.length) padded[key.length] = 1;
  const words = new Int32Array(8 + 4 * (ROUNDS + 1));
  for (let index = 0; index < 8; index += 1) words[index] = padded.readInt32LE(index * 4);
  for (let index = 8; index < words.length; index += 1) {
    const sum = words[index - 8] ^ words[index - 5] ^ words[index - 3] ^ words[index - 1] ^ GOLDEN_RATIO ^ (index - 8);
    words[index] = (sum << 11) | (sum >>> 21);
  }
  const subkeys = Buffer.alloc(KEY_BYTES);
  for (let round = 0; round <= ROUNDS; round += 1) {
    const box = SERPENT_BOXES[(ROUNDS + 3 - round) % 8];
    const from = 8 + 4 * round;
    for (const [index, word] of substitute(box, words.subarray(from, from + 4)).entries()) {
      subkeys.writeInt32LE(word, round * BLOCK + index * 4);
    }
  }
  return subkeys;
}

/** An S-box on each of 32 columns: bit `i` of a column is in word `i`. */
function substitute(box: string, words: Int32Array): Int32Array {
  const result = new Int32Array(4);
  for (let bit = 0; bit < 32; bit += 1) {
    let column = 0;
    for (let word = 0; word < 4; word += 1) column |= ((words[word] >>> bit) & 1) << word;
    const value = Number.parseInt(box[column], 16);
    for (let word = 0; word < 4; word += 1) result[word] |= ((value >>> word) & 1) << bit;
  }
  return result;
}

// Locals of the functions: parameters, then vectors. The words of four blocks are X to X + 3.
const [AT, COUNT, X] = [0, 1, 2];
const SCRATCH = X + 4;
/** No circuit has more operations. */
const SCRATCH_SIZE = 32;

function encryptFunction(): WasmFunction {
  const rounds: Code[] = [];
  for (let round = 0; round < ROUNDS; round += 1) {
    rounds.push(...addSubkey(round), ...circuit(SERPENT_CIRCUITS[round % 8]));
    rounds.push(...(round < ROUNDS - 1 ? transform() : addSubkey(ROUNDS)));
  }
  return blockFunction('encrypt', rounds);
}

function decryptFunction(): WasmFunction {
  const rounds: Code[] = [];
  for (let round = ROUNDS - 1; round >= 0; round -= 1) {
    rounds.push(...(round < ROUNDS - 1 ? transformBack() : addSubkey(ROUNDS)));
    rounds.push(...circuit(INVERSE_CIRCUITS[round % 8]), ...addSubkey(round));
  }
  return blockFunction('decrypt', rounds);
}

function blockFunction(name: string, rounds: readonly Code[]): WasmFunction {
  const loads = [0, 1, 2, 3].map((index) => set(X + index, load(get(AT), index * BLOCK)));
  const stores = [0, 1, 2, 3].map((index) => store(get(AT), get(X + index), index * BLOCK));
  const body = [...loads, ...transpose(), ...rounds, ...transpose(), ...stores, advance(AT, BLOCK * LANES)];
  return { name, parameters: 2, vectors: 4 + SCRATCH_SIZE, body: [repeat(COUNT, body)] };
}

/** Blocks of four words become vectors of the first, second, … word of each; and back. */
function transpose(): Code[] {
  const lanes = (...words: number[]) => words.flatMap((word) => [0, 1, 2, 3].map((byte) => word * 4 + byte));
  const pick = (a: number, b: number, ...words: number[]) => shuffle(get(a), get(b), lanes(...words));
  const [low, high] = [
    [0, 4, 1, 5],
    [2, 6, 3, 7],
  ];
  const s = SCRATCH;
  return [
    set(s, pick(X, X + 1, ...low)),
    set(s + 1, pick(X + 2, X + 3, ...low)),
    set(s + 2, pick(X, X + 1, ...high)),
    set(s + 3, pick(X + 2, X + 3, ...high)),
    set(X, pick(s, s + 1, 0, 1, 4, 5)),
    set(X + 1, pick(s, s + 1, 2, 3, 6, 7)),
    set(X + 2, pick(s + 2, s + 3, 0, 1, 4, 5)),
    set(X + 3, pick(s + 2, s + 3, 2, 3, 6, 7)),
  ];
}

const OPERATIONS: Readonly<Record<Gate['kind'], (a: Code, b: Code) => Code>> = {
  '~': (a) => not(a),
  '&': and,
  '|': or,
  '^': xor,
  '-': andNot,
};

/** An S-box on the words. */
function circuit(text: string): Code[] {
  const { gates, outputs } = parseCircuit(text);
  // Inputs stay as they are until all is done: each operation has a local of its own.
  const bit = (number: number) => get(X + number);
  const code = gates.map(({ kind, a, b }, index) => set(SCRATCH + index, OPERATIONS[kind](bit(a), bit(b))));
  return [...code, ...outputs.map((output, index) => set(X + index, bit(output)))];
}

function addSubkey(round: number): Code[] {
  return [0, 1, 2, 3].map((index) =>
    set(X + index, xor(get(X + index), loadSplat(constant(0), round * BLOCK + index * 4))),
  );
}

/** A word becomes itself XORed with two others, one of them perhaps shifted. */
function mix(word: number, a: number, b: number, shift = 0): Code {
  const other = shift === 0 ? get(X + b) : shiftLeft32(get(X + b), shift);
  return set(X + word, xor(xor(get(X + word), get(X + a)), other));
}

function rotate(word: number, by: number): Code {
  return set(X + word, rotateLeft32(X + word, by));
}

/** The linear transformation (section 3). */
function transform(): Code[] {
  return [
    rotate(0, 13),
    rotate(2, 3),
    mix(1, 0, 2),
    mix(3, 2, 0, 3),
    rotate(1, 1),
    rotate(3, 7),
    mix(0, 1, 3),
    mix(2, 3, 1, 7),
    rotate(0, 5),
    rotate(2, 22),
  ];
}

function transformBack(): Code[] {
  return [
    rotate(2, 32 - 22),
    rotate(0, 32 - 5),
    mix(2, 3, 1, 7),
    mix(0, 1, 3),
    rotate(3, 32 - 7),
    rotate(1, 32 - 1),
    mix(3, 2, 0, 3),
    mix(1, 0, 2),
    rotate(2, 32 - 3),
    rotate(0, 32 - 13),
  ];
}
