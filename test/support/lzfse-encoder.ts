import { type Token, tokensOf } from './lz-tokens.ts';
import { encodeLzvn } from './lzvn-encoder.ts';

export type LzfseKind = 'v1' | 'v2' | 'lzvn' | 'plain';

const MAX_MATCHES = 10_000;
const MAX_LITERALS = 40_000;
/** Extra bits by symbol; a symbol's base is the sum of what those before it cover. */
const LENGTH_EXTRA = [...new Array<number>(16).fill(0), 2, 3, 5, 8];
const MATCH_EXTRA = [...new Array<number>(16).fill(0), 3, 5, 8, 11];
const DISTANCE_EXTRA = Array.from({ length: 64 }, (_, symbol) => symbol >> 2);
const LITERAL_EXTRA = new Array<number>(256).fill(0);

/** Bytes as blocks of LZFSE: of one kind, or of several in turn. */
export function encodeLzfse(bytes: Buffer, kinds: readonly LzfseKind[] = ['v2']): Buffer {
  const blocks: Buffer[] = [];
  const piece = Math.ceil(bytes.length / kinds.length);
  for (const [index, kind] of kinds.entries()) {
    const part = bytes.subarray(index * piece, (index + 1) * piece);
    if (kind === 'plain') blocks.push(header('bvx-', [part.length]), part);
    else if (kind === 'lzvn') {
      const payload = encodeLzvn(part);
      blocks.push(header('bvxn', [part.length, payload.length]), payload);
    } else blocks.push(...codedBlocks(part, kind));
  }
  return Buffer.concat([...blocks, Buffer.from('bvx$')]);
}

function header(magic: string, numbers: readonly number[]): Buffer {
  const bytes = Buffer.alloc(4 + 4 * numbers.length);
  bytes.write(magic);
  for (const [index, number] of numbers.entries()) bytes.writeUInt32LE(number, 4 + 4 * index);
  return bytes;
}

function codedBlocks(bytes: Buffer, kind: 'v1' | 'v2'): Buffer[] {
  const tokens = tokensOf(bytes, { minMatch: 4, maxMatch: 2359, maxDistance: 262_139, maxLiterals: 315 });
  const blocks: Buffer[] = [];
  let batch: Token[] = [];
  let literals = 0;
  for (const token of tokens) {
    if (batch.length === MAX_MATCHES || literals + token.literals.length > MAX_LITERALS) {
      blocks.push(codedBlock(batch, kind));
      [batch, literals] = [[], 0];
    }
    batch.push(token);
    literals += token.literals.length;
  }
  if (batch.length > 0) blocks.push(codedBlock(batch, kind));
  return blocks;
}

interface Symbol {
  symbol: number;
  extra: number;
  rest: number;
}

/** The symbol for a number, and what is left of it. */
function symbolOf(value: number, extras: readonly number[]): Symbol {
  let base = 0;
  for (const [symbol, extra] of extras.entries()) {
    if (value < base + 2 ** extra) return { symbol, extra, rest: value - base };
    base += 2 ** extra;
  }
  throw new Error(`${value} has no symbol`);
}

function codedBlock(tokens: readonly Token[], kind: 'v1' | 'v2'): Buffer {
  const plain = Buffer.concat(tokens.map(({ literals }) => literals));
  const literals = Buffer.concat([plain, Buffer.alloc(-plain.length & 3)]);
  const matches = tokens.map(({ literals: before, length, distance }, index) => ({
    literal: symbolOf(before.length, LENGTH_EXTRA),
    match: symbolOf(length, MATCH_EXTRA),
    // 0 repeats the distance before; a match of nothing may have any.
    distance: symbolOf(index > 0 && tokens[index - 1].distance === distance ? 0 : distance || 1, DISTANCE_EXTRA),
  }));
  const alphabets = [
    counted(
      matches.map(({ literal }) => literal.symbol),
      LENGTH_EXTRA,
      64,
    ),
    counted(
      matches.map(({ match }) => match.symbol),
      MATCH_EXTRA,
      64,
    ),
    counted(
      matches.map(({ distance }) => distance.symbol),
      DISTANCE_EXTRA,
      256,
    ),
    counted([...literals], LITERAL_EXTRA, 1024),
  ];
  const literalStream = new ForwardBits();
  const states = [0, 0, 0, 0];
  // Coders work from the end to the beginning, since decoding goes the other way.
  for (let at = literals.length - 1; at >= 0; at -= 1) {
    states[at & 3] = alphabets[3].push(literalStream, states[at & 3], { symbol: literals[at], extra: 0, rest: 0 });
  }
  const matchStream = new ForwardBits();
  let [lengthState, matchState, distanceState] = [0, 0, 0];
  for (const { literal, match, distance } of [...matches].reverse()) {
    distanceState = alphabets[2].push(matchStream, distanceState, distance);
    matchState = alphabets[1].push(matchStream, matchState, match);
    lengthState = alphabets[0].push(matchStream, lengthState, literal);
  }
  const size = tokens.reduce((sum, token) => sum + token.literals.length + token.length, 0);
  const facts: BlockFacts = {
    size,
    literals: literals.length,
    matches: tokens.length,
    literalStream: literalStream.finish(),
    matchStream: matchStream.finish(),
    literalStates: states,
    matchStates: [lengthState, matchState, distanceState],
    frequencies: alphabets.map(({ frequencies }) => frequencies),
  };
  const head = kind === 'v1' ? headerV1(facts) : headerV2(facts);
  return Buffer.concat([head, facts.literalStream.bytes, facts.matchStream.bytes]);
}

interface Stream {
  bytes: Buffer;
  /** Bits of the last byte that are not the stream's. */
  spare: number;
}

interface BlockFacts {
  size: number;
  literals: number;
  matches: number;
  literalStream: Stream;
  matchStream: Stream;
  literalStates: number[];
  matchStates: number[];
  frequencies: number[][];
}

function headerV1(facts: BlockFacts): Buffer {
  const { literalStream, matchStream } = facts;
  const bytes = Buffer.alloc(772);
  bytes.write('bvx1');
  const payload = literalStream.bytes.length + matchStream.bytes.length;
  const { length: literalBytes } = literalStream.bytes;
  const sizes = [facts.size, payload, facts.literals, facts.matches, literalBytes, matchStream.bytes.length];
  for (const [index, value] of sizes.entries()) bytes.writeUInt32LE(value, 4 + 4 * index);
  bytes.writeInt32LE(-literalStream.spare, 28);
  for (const [index, state] of facts.literalStates.entries()) bytes.writeUInt16LE(state, 32 + 2 * index);
  bytes.writeInt32LE(-matchStream.spare, 40);
  for (const [index, state] of facts.matchStates.entries()) bytes.writeUInt16LE(state, 44 + 2 * index);
  for (const [index, value] of facts.frequencies.flat().entries()) bytes.writeUInt16LE(value, 50 + 2 * index);
  return bytes;
}

function headerV2(facts: BlockFacts): Buffer {
  const { literalStream, matchStream } = facts;
  const frequencies = packedFrequencies(facts.frequencies.flat());
  const bytes = Buffer.alloc(32);
  bytes.write('bvx2');
  bytes.writeUInt32LE(facts.size, 4);
  const words: [number, number][][] = [
    [
      [facts.literals, 0],
      [literalStream.bytes.length, 20],
      [facts.matches, 40],
      [7 - literalStream.spare, 60],
    ],
    [
      ...facts.literalStates.map((state, index): [number, number] => [state, 10 * index]),
      [matchStream.bytes.length, 40],
      [7 - matchStream.spare, 60],
    ],
    [
      [32 + frequencies.length, 0],
      ...facts.matchStates.map((state, index): [number, number] => [state, 32 + 10 * index]),
    ],
  ];
  for (const [index, fields] of words.entries()) {
    const word = fields.reduce((sum, [value, shift]) => sum | (BigInt(value) << BigInt(shift)), 0n);
    bytes.writeBigUInt64LE(word, 8 + 8 * index);
  }
  return Buffer.concat([bytes, frequencies]);
}

function packedFrequencies(frequencies: readonly number[]): Buffer {
  const bits = new ForwardBits();
  const small = [
    [0b00, 2],
    [0b10, 2],
    [0b001, 3],
    [0b101, 3],
  ];
  for (const value of frequencies) {
    if (value < 4) bits.push(small[value][0], small[value][1]);
    else if (value < 8) bits.push(0b011 | ((value - 4) << 3), 5);
    else if (value < 24) bits.push(0b0111 | ((value - 8) << 4), 8);
    else bits.push(0b1111 | ((value - 24) << 4), 14);
  }
  return bits.finish().bytes;
}

/** Frequencies that sum up to the number of states, and the coder that they make. */
function counted(symbols: readonly number[], extras: readonly number[], states: number): Coder {
  const counts = new Array<number>(extras.length).fill(0);
  for (const symbol of symbols) counts[symbol] += 1;
  const total = Math.max(1, symbols.length);
  const frequencies = counts.map((count) => (count === 0 ? 0 : Math.max(1, Math.floor((count * states) / total))));
  for (let sum = frequencies.reduce((a, b) => a + b, 0); sum !== states; sum += sum > states ? -1 : 1) {
    const largest = frequencies.indexOf(Math.max(...frequencies));
    frequencies[largest] += sum > states ? -1 : 1;
  }
  return new Coder(frequencies, states);
}

class Coder {
  readonly frequencies: number[];
  /** By symbol: the first of its states. */
  readonly #first: number[] = [];
  readonly #states: number;

  constructor(frequencies: number[], states: number) {
    this.frequencies = frequencies;
    this.#states = states;
    let at = 0;
    for (const frequency of frequencies) {
      this.#first.push(at);
      at += frequency;
    }
  }

  /** Codes a symbol; the state from which decoding gives it and then `state`. */
  push(bits: ForwardBits, state: number, { symbol, extra, rest }: Symbol): number {
    const frequency = this.frequencies[symbol];
    // Of the states of the symbol the one whose range of followers holds `state`.
    const whole = state + this.#states;
    let count = 0;
    while (whole >> count >= 2 * frequency) count += 1;
    bits.push(rest, extra);
    bits.push(whole & (2 ** count - 1), count);
    return this.#first[symbol] + (whole >> count) - frequency;
  }
}

/** Bits from the lowest of the first byte on. */
class ForwardBits {
  readonly #bytes: number[] = [];
  #bits = 0n;
  #count = 0;

  push(value: number, count: number): void {
    this.#bits |= BigInt(value) << BigInt(this.#count);
    this.#count += count;
    for (; this.#count >= 8; this.#count -= 8) {
      this.#bytes.push(Number(this.#bits & 0xffn));
      this.#bits >>= 8n;
    }
  }

  finish(): Stream {
    const spare = -this.#count & 7;
    if (this.#count > 0) this.#bytes.push(Number(this.#bits));
    return { bytes: Buffer.from(this.#bytes), spare };
  }
}
