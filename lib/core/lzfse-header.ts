import { DISTANCES, LITERAL_LENGTHS, LITERALS, MATCH_LENGTHS } from './lzfse-tables.ts';

/** What a block of LZFSE with entropy coding says of itself. */
export interface BlockHeader {
  /** Bytes of the header. */
  bytes: number;
  literals: number;
  matches: number;
  /** Bytes of the literals' stream, and of the matches' stream behind it. */
  literalBytes: number;
  matchBytes: number;
  /** Bits at the streams' ends that don't belong to them. */
  literalSpareBits: number;
  matchSpareBits: number;
  /** States of the coders at the start. */
  literalStates: number[];
  literalLengthState: number;
  matchLengthState: number;
  distanceState: number;
  frequencies: Frequencies;
}

interface Frequencies {
  literalLengths: Uint16Array;
  matchLengths: Uint16Array;
  distances: Uint16Array;
  literals: Uint16Array;
}

const MAX_MATCHES = 10_000;
const MAX_LITERALS = 4 * MAX_MATCHES;

/** Version 1: numbers of 32 and 16 bits, and the frequencies plain. */
const V1_BYTES = 772;
const V1_FREQUENCIES = 50;
/** Version 2: numbers packed into three words of 64 bits, and the frequencies in a code of their own. */
const V2_BYTES = 32;
const V2_WORDS = 8;

/** The header in the plain form ("bvx1"); null where it can't be. */
export function decodeHeaderV1(bytes: Buffer): BlockHeader | null {
  if (bytes.length < V1_BYTES) return null;
  const frequencies = emptyFrequencies();
  let at = V1_FREQUENCIES;
  for (const list of inOrder(frequencies)) {
    for (let index = 0; index < list.length; index += 1, at += 2) list[index] = bytes.readUInt16LE(at);
  }
  return checked({
    bytes: V1_BYTES,
    literals: bytes.readUInt32LE(12),
    matches: bytes.readUInt32LE(16),
    literalBytes: bytes.readUInt32LE(20),
    matchBytes: bytes.readUInt32LE(24),
    literalSpareBits: -bytes.readInt32LE(28),
    literalStates: [32, 34, 36, 38].map((offset) => bytes.readUInt16LE(offset)),
    matchSpareBits: -bytes.readInt32LE(40),
    literalLengthState: bytes.readUInt16LE(44),
    matchLengthState: bytes.readUInt16LE(46),
    distanceState: bytes.readUInt16LE(48),
    frequencies,
  });
}

/** The header in the packed form ("bvx2"); null where it can't be. */
export function decodeHeaderV2(bytes: Buffer): BlockHeader | null {
  if (bytes.length < V2_BYTES) return null;
  const [first, second, third] = [0, 8, 16].map((offset) => bytes.readBigUInt64LE(V2_WORDS + offset));
  const headerBytes = field(third, 0, 32);
  if (headerBytes < V2_BYTES || headerBytes > bytes.length) return null;
  const frequencies = emptyFrequencies();
  if (headerBytes > V2_BYTES && !readFrequencies(bytes.subarray(V2_BYTES, headerBytes), frequencies)) return null;
  return checked({
    bytes: headerBytes,
    literals: field(first, 0, 20),
    literalBytes: field(first, 20, 20),
    matches: field(first, 40, 20),
    literalSpareBits: 7 - field(first, 60, 3),
    literalStates: [0, 10, 20, 30].map((shift) => field(second, shift, 10)),
    matchBytes: field(second, 40, 20),
    matchSpareBits: 7 - field(second, 60, 3),
    literalLengthState: field(third, 32, 10),
    matchLengthState: field(third, 42, 10),
    distanceState: field(third, 52, 10),
    frequencies,
  });
}

/** The streams' lengths are the caller's to check. */
function checked(header: BlockHeader): BlockHeader | null {
  const { literals, matches, literalSpareBits, matchSpareBits, literalStates } = header;
  const spare = [literalSpareBits, matchSpareBits].every((bits) => bits >= 0 && bits <= 7);
  const states = literalStates.every((state) => state < LITERALS.states);
  return spare && states && literals <= MAX_LITERALS && matches <= MAX_MATCHES ? header : null;
}

function emptyFrequencies(): Frequencies {
  return {
    literalLengths: new Uint16Array(LITERAL_LENGTHS.symbols),
    matchLengths: new Uint16Array(MATCH_LENGTHS.symbols),
    distances: new Uint16Array(DISTANCES.symbols),
    literals: new Uint16Array(LITERALS.symbols),
  };
}

function inOrder({ literalLengths, matchLengths, distances, literals }: Frequencies): Uint16Array[] {
  return [literalLengths, matchLengths, distances, literals];
}

function field(word: bigint, shift: number, bits: number): number {
  return Number((word >> BigInt(shift)) & ((1n << BigInt(bits)) - 1n));
}

/** Small frequencies have codes of 2, 3 or 5 bits, by the lowest of them; the others 8 or 14, with a number above. */
const CODE_0 = { mask: 0b11, code: 0b00, bits: 2, base: 0 };
const CODE_1 = { mask: 0b11, code: 0b10, bits: 2, base: 1 };
const CODE_2 = { mask: 0b111, code: 0b001, bits: 3, base: 2 };
const CODE_3 = { mask: 0b111, code: 0b101, bits: 3, base: 3 };
const CODE_4 = { mask: 0b111, code: 0b011, bits: 5, base: 4 };
const CODE_8 = { mask: 0b1111, code: 0b0111, bits: 8, base: 8 };
const CODE_24 = { mask: 0b1111, code: 0b1111, bits: 14, base: 24 };
const CODES = [CODE_0, CODE_1, CODE_2, CODE_3, CODE_4, CODE_8, CODE_24];

/** Reads all frequencies, lowest bits first; false where there are too few or too many bytes for them. */
function readFrequencies(bytes: Buffer, frequencies: Frequencies): boolean {
  let bits = 0;
  let count = 0;
  let at = 0;
  for (const list of inOrder(frequencies)) {
    for (let index = 0; index < list.length; index += 1) {
      while (count <= 16 && at < bytes.length) {
        bits |= bytes[at] << count;
        at += 1;
        count += 8;
      }
      const code = CODES.find(({ mask, code: wanted }) => (bits & mask) === wanted) as (typeof CODES)[number];
      if (code.bits > count) return false;
      // How many bits of the code are its kind's: the others are added to the base.
      const kind = 32 - Math.clz32(code.mask);
      list[index] = code.base + ((bits & ((1 << code.bits) - 1)) >>> kind);
      bits >>>= code.bits;
      count -= code.bits;
    }
  }
  return at === bytes.length && count < 8;
}
