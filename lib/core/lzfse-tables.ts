/**
 * The entropy coder of LZFSE: finite state entropy (tabled asymmetric numeral systems). A state gives a symbol and how many bits
 * make the next state.
 */

/** Decoding tables of one alphabet, by state. */
export interface FseTable {
  /** Bits to read at this state: those of the next state, and those of the value below them. */
  readonly bits: Uint8Array;
  /** How many of these are the value's. */
  readonly valueBits: Uint8Array;
  /** What the upper bits are added to for the next state; may be negative before. */
  readonly next: Int16Array;
  /** The symbol, or the value's base. */
  readonly value: Uint32Array;
}

/** How the symbols of an alphabet stand for numbers: a base, and so many more bits. */
export interface Alphabet {
  readonly states: number;
  readonly symbols: number;
  readonly extra: Uint8Array;
  readonly base: Uint32Array;
}

/** Each symbol's base is the first number that those before it don't reach. */
function alphabet(states: number, extra: readonly number[]): Alphabet {
  const base = new Uint32Array(extra.length);
  for (let symbol = 1; symbol < extra.length; symbol += 1) base[symbol] = base[symbol - 1] + 2 ** extra[symbol - 1];
  return { states, symbols: extra.length, extra: Uint8Array.from(extra), base };
}

const SIXTEEN_SINGLES = new Array<number>(16).fill(0);

/** Lengths of literals (up to 315) and of matches (up to 2359), and distances (up to 262139). */
export const LITERAL_LENGTHS = alphabet(64, [...SIXTEEN_SINGLES, 2, 3, 5, 8]);
export const MATCH_LENGTHS = alphabet(64, [...SIXTEEN_SINGLES, 3, 5, 8, 11]);
export const DISTANCES = alphabet(
  256,
  Array.from({ length: 64 }, (_, symbol) => symbol >> 2),
);
export const LITERALS: Alphabet = {
  states: 1024,
  symbols: 256,
  extra: new Uint8Array(256),
  base: Uint32Array.from({ length: 256 }, (_, symbol) => symbol),
};

/**
 * Lays the symbols out over the states, each over as many as its frequency says. Null where the frequencies make more
 * states than there are; states that they leave over lead nowhere, and have 255 bits.
 */
export function makeFseTable(frequencies: Uint16Array, { states, symbols, extra, base }: Alphabet): FseTable | null {
  const table: FseTable = {
    bits: new Uint8Array(states).fill(NO_STATE),
    valueBits: new Uint8Array(states),
    next: new Int16Array(states),
    value: new Uint32Array(states),
  };
  let state = 0;
  for (let symbol = 0; symbol < symbols; symbol += 1) {
    const frequency = frequencies[symbol];
    if (frequency === 0) continue;
    if (state + frequency > states) return null;
    // A symbol's states take `most` bits to leave, the later ones one fewer.
    const most = Math.clz32(frequency) - Math.clz32(states);
    const longer = ((2 * states) >> most) - frequency;
    for (let index = 0; index < frequency; index += 1) {
      const bits = index < longer ? most : most - 1;
      table.bits[state] = bits + extra[symbol];
      table.valueBits[state] = extra[symbol];
      table.next[state] = index < longer ? ((frequency + index) << most) - states : (index - longer) << bits;
      table.value[state] = base[symbol];
      state += 1;
    }
  }
  return table;
}

const PADDING = 4;

/** In `FseTable.bits`: no symbol has this state. */
export const NO_STATE = 255;

/**
 * Bits of a stream that is read from its end: the last byte's top bits first. Where bits run out it gives zeros, and
 * `overrun` says so.
 */
export class BackwardBits {
  readonly #bytes: Buffer;
  #position: number;

  /** @param spare bits at the end of the last byte that don't belong to the stream: 0 to 7 */
  constructor(bytes: Buffer, spare: number) {
    // With zeros behind it, so that four bytes can be read anywhere: reads past the end of memory are slow.
    this.#bytes = Buffer.alloc(bytes.length + PADDING);
    bytes.copy(this.#bytes);
    this.#position = bytes.length * 8 - spare;
  }

  /** More bits were asked for than there were. */
  get overrun(): boolean {
    return this.#position < 0;
  }

  /** Bits not read yet. */
  get left(): number {
    return this.#position;
  }

  /** Up to 25 bits, as a number whose lowest bit was nearest to the stream's beginning. */
  pull(count: number): number {
    this.#position -= count;
    const position = this.#position;
    if (position < 0) return 0;
    const at = position >> 3;
    const bytes = this.#bytes;
    const word = bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24);
    return (word >>> (position & 7)) & ((1 << count) - 1);
  }
}
