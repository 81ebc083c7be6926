import { copyWithin } from './adc.ts';
import { ImageError } from './errors.ts';
import { type BlockHeader, decodeHeaderV1, decodeHeaderV2 } from './lzfse-header.ts';
import {
  type Alphabet,
  BackwardBits,
  DISTANCES,
  type FseTable,
  LITERAL_LENGTHS,
  LITERALS,
  MATCH_LENGTHS,
  makeFseTable,
  NO_STATE,
} from './lzfse-tables.ts';
import { decodeLzvn, LZVN_MAX_RATIO } from './lzvn.ts';

/**
 * LZFSE, Apple's Lempel-Ziv with finite state entropy: blocks of four kinds, each with a magic and the number of bytes
 * that it stands for, all little-endian. The format is that of Apple's open reference, github.com/lzfse/lzfse.
 */
const Magic = {
  end: magic('bvx$'),
  plain: magic('bvx-'),
  v1: magic('bvx1'),
  v2: magic('bvx2'),
  lzvn: magic('bvxn'),
} as const;

const PLAIN_HEADER_BYTES = 8;
const LZVN_HEADER_BYTES = 12;
const MAX_LITERALS = 315;
const MAX_MATCH = 2359;

/** A block: its packed bytes without the header, and what they stand for. */
interface Block {
  kind: number;
  payload: Buffer;
  plainBytes: number;
  /** Of blocks with entropy coding. */
  header: BlockHeader | null;
}

/** Decodes LZFSE blocks up to the end marker. Anything but exactly `size` bytes is a `corrupt` ImageError. */
export function decodeLzfse(packed: Buffer, size: number): Buffer {
  const blocks = [...blocksOf(packed, size)];
  const total = blocks.reduce((sum, { plainBytes }) => sum + plainBytes, 0);
  // Only then is there memory taken for it.
  if (total !== size) throw broken();
  const out = Buffer.allocUnsafeSlow(size);
  let at = 0;
  for (const block of blocks) {
    if (!decodeBlock(block, out, at)) throw broken();
    at += block.plainBytes;
  }
  return out;
}

function* blocksOf(packed: Buffer, size: number): Generator<Block> {
  let total = 0;
  for (let at = 0; ; ) {
    if (at + 4 > packed.length) throw broken();
    if (packed.readUInt32LE(at) === Magic.end) return;
    const { block, length } = blockAt(packed.subarray(at));
    at += length;
    total += block.plainBytes;
    if (total > size) throw broken();
    yield block;
  }
}

function blockAt(bytes: Buffer): { block: Block; length: number } {
  if (bytes.length < PLAIN_HEADER_BYTES) throw broken();
  const kind = bytes.readUInt32LE(0);
  const plainBytes = bytes.readUInt32LE(4);
  if (kind === Magic.plain)
    return plainBlock(bytes, { kind, plainBytes, from: PLAIN_HEADER_BYTES, packed: plainBytes });
  if (kind === Magic.lzvn) {
    if (bytes.length < LZVN_HEADER_BYTES) throw broken();
    const payload = bytes.readUInt32LE(8);
    if (plainBytes > payload * LZVN_MAX_RATIO) throw broken();
    return plainBlock(bytes, { kind, plainBytes, from: LZVN_HEADER_BYTES, packed: payload });
  }
  if (kind !== Magic.v1 && kind !== Magic.v2) throw broken();
  const header = kind === Magic.v1 ? decodeHeaderV1(bytes) : decodeHeaderV2(bytes);
  if (header === null || plainBytes > header.matches * (MAX_LITERALS + MAX_MATCH)) throw broken();
  const length = header.bytes + header.literalBytes + header.matchBytes;
  if (length > bytes.length) throw broken();
  return { block: { kind, plainBytes, header, payload: bytes.subarray(header.bytes, length) }, length };
}

function plainBlock(
  bytes: Buffer,
  { kind, plainBytes, from, packed }: { kind: number; plainBytes: number; from: number; packed: number },
): { block: Block; length: number } {
  if (from + packed > bytes.length) throw broken();
  return {
    block: { kind, plainBytes, header: null, payload: bytes.subarray(from, from + packed) },
    length: from + packed,
  };
}

/** Fills `out` from `at` on; false where the block is damaged. */
function decodeBlock({ kind, payload, plainBytes, header }: Block, out: Buffer, at: number): boolean {
  if (header !== null) return decodeCoded(header, payload, out, at, at + plainBytes);
  if (kind === Magic.lzvn) return decodeLzvn(payload, out, at, at + plainBytes);
  payload.copy(out, at);
  return true;
}

function decodeCoded(header: BlockHeader, payload: Buffer, out: Buffer, start: number, end: number): boolean {
  const literals = decodeLiterals(header, payload.subarray(0, header.literalBytes));
  if (literals === null) return false;
  const lengths = startOf(header.frequencies.literalLengths, LITERAL_LENGTHS, header.literalLengthState);
  const matches = startOf(header.frequencies.matchLengths, MATCH_LENGTHS, header.matchLengthState);
  const distances = startOf(header.frequencies.distances, DISTANCES, header.distanceState);
  if (lengths === null || matches === null || distances === null) return false;
  const bits = new BackwardBits(payload.subarray(header.literalBytes), header.matchSpareBits);
  let distance = 0;
  let used = 0;
  let at = start;
  for (let index = 0; index < header.matches; index += 1) {
    const literalLength = lengths.pull(bits);
    const length = matches.pull(bits);
    const told = distances.pull(bits);
    // 0 is the distance before.
    if (told !== 0) distance = told;
    if (bits.overrun || at + literalLength + length > end || used + literalLength > literals.length) return false;
    for (const stop = used + literalLength; used < stop; used += 1, at += 1) out[at] = literals[used];
    if (length === 0) continue;
    if (distance < 1 || distance > at) return false;
    copyWithin(out, at, distance, length);
    at += length;
  }
  return at === end;
}

/** Literals are coded by four coders that take turns on one stream. */
function decodeLiterals(header: BlockHeader, payload: Buffer): Buffer | null {
  const table = makeFseTable(header.frequencies.literals, LITERALS);
  if (table === null || header.literals % 4 !== 0) return null;
  const { bits: counts, next, value } = table;
  const bits = new BackwardBits(payload, header.literalSpareBits);
  const states = Uint16Array.from(header.literalStates);
  const literals = Buffer.allocUnsafe(header.literals);
  for (let at = 0; at < literals.length; at += 1) {
    const state = states[at & 3];
    // A literal has no bits of its own: all that are read make the next state.
    const count = counts[state];
    if (count === NO_STATE) return null;
    literals[at] = value[state];
    states[at & 3] = next[state] + bits.pull(count);
  }
  return bits.overrun ? null : literals;
}

function startOf(frequencies: Uint16Array, alphabet: Alphabet, state: number): Coder | null {
  const table = makeFseTable(frequencies, alphabet);
  return table === null || state >= alphabet.states ? null : new Coder(table, state);
}

/** One coder: a state that moves on with each value. */
class Coder {
  readonly #table: FseTable;
  #state: number;

  constructor(table: FseTable, state: number) {
    this.#table = table;
    this.#state = state;
  }

  /** The next value. A state that has none runs the stream dry, which the caller notices. */
  pull(bits: BackwardBits): number {
    const { bits: counts, valueBits, next, value } = this.#table;
    const state = this.#state;
    const count = counts[state];
    if (count === NO_STATE) {
      bits.pull(Math.max(0, bits.left) + 1);
      return 0;
    }
    const raw = bits.pull(count);
    const low = valueBits[state];
    this.#state = next[state] + (raw >> low);
    return value[state] + (raw & ((1 << low) - 1));
  }
}

function magic(text: string): number {
  return Buffer.from(text, 'latin1').readUInt32LE(0);
}

function broken(): ImageError {
  return new ImageError('corrupt', 'The LZFSE stream of a chunk is broken');
}
