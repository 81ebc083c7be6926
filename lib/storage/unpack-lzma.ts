import type { ChunkReader, ChunkStream } from './chunks.ts';
import { cutOff, damaged } from './unpack-error.ts';

/**
 * LZMA2 (The .xz File Format, 5.3.1; the LZMA specification of the LZMA SDK): chunks of a range-coded LZ77 stream,
 * or of plain bytes. A chunk unpacks to 2 MiB at the most; the dictionary is a ring.
 */
const CONTROL_END = 0x00;
const CONTROL_PLAIN_RESET = 0x01;
const CONTROL_PLAIN = 0x02;
const CONTROL_LZMA = 0x80;
/** What an LZMA chunk resets: bits 5 and 6 of its control byte. */
const RESET_STATE = 1;
const RESET_PROPERTIES = 2;
const RESET_ALL = 3;
const MAX_CHUNK = 2 * 1024 * 1024;

const PROBABILITY_HALF = 1024;
const TOP = 2 ** 24;
const STATES = 12;
const POSITION_STATES = 16;
const MIN_MATCH = 2;
const LITERAL_CODER = 0x300;
/** States below have seen a literal last. */
const FIRST_MATCH_STATE = 7;
/** Distances above need no more models: their lower bits are coded directly. */
const FIRST_DIRECT_SLOT = 14;
const FIRST_MODELLED_SLOT = 4;

/** Probabilities of a length: two choices, low and middle by position, high for all. */
const LENGTH_LOW = 2;
const LENGTH_MIDDLE = LENGTH_LOW + POSITION_STATES * 8;
const LENGTH_HIGH = LENGTH_MIDDLE + POSITION_STATES * 8;
const LENGTH_CODER = LENGTH_HIGH + 256;

/** Where each model begins in one array of all probabilities. */
const IS_MATCH = 0;
const IS_REP = IS_MATCH + STATES * POSITION_STATES;
const IS_REP0 = IS_REP + STATES;
const IS_REP1 = IS_REP0 + STATES;
const IS_REP2 = IS_REP1 + STATES;
const IS_REP0_LONG = IS_REP2 + STATES;
const DISTANCE_SLOT = IS_REP0_LONG + STATES * POSITION_STATES;
const DISTANCE_SPECIAL = DISTANCE_SLOT + 4 * 64;
const DISTANCE_ALIGN = DISTANCE_SPECIAL + 128;
const MATCH_LENGTH = DISTANCE_ALIGN + 16;
const REP_LENGTH = MATCH_LENGTH + LENGTH_CODER;
const LITERALS = REP_LENGTH + LENGTH_CODER;

/** Decodes the LZMA2 data of one block. */
export class LzmaDecoder {
  readonly #ring: Buffer;
  /** Where the next byte goes. */
  #at = 0;
  /** Bytes since the dictionary was reset: how far back a match may reach. */
  #reach = 0;
  /** Bytes since then, modulo 2^32: models depend on its low bits. */
  #total = 0;
  #probabilities = new Uint16Array(0);
  #state = 0;
  /** Distances of the last four matches, minus one; the latest first. */
  #rep0 = 0;
  #rep1 = 0;
  #rep2 = 0;
  #rep3 = 0;
  #literalContext = 0;
  #literalPosition = 0;
  #positionMask = 0;
  #input: Buffer = Buffer.alloc(0);
  #inputAt = 0;
  /** Both are unsigned 32-bit numbers held as signed ones: V8 keeps those in registers, larger ones in memory. */
  #range = 0;
  #code = 0;
  #needsDictionary = true;
  #needsProperties = true;
  #needsState = true;

  constructor(dictionarySize: number) {
    // At least two chunks, so that one can be put out whole before it is written over.
    this.#ring = Buffer.alloc(Math.max(dictionarySize, 2 * MAX_CHUNK));
  }

  /** Reads from the first chunk to the end marker. */
  async *decode(reader: ChunkReader): ChunkStream {
    for (;;) {
      if (!(await reader.ensure(1))) throw cutOff('xz', reader);
      const control = reader.view[0];
      if (control === CONTROL_END) {
        reader.take(1);
        return;
      }
      const from = this.#at;
      const size = await this.#readChunk(reader, control);
      const whole = Math.min(size, this.#ring.length - from);
      yield this.#ring.subarray(from, from + whole);
      if (whole < size) yield this.#ring.subarray(0, size - whole);
    }
  }

  async #readChunk(reader: ChunkReader, control: number): Promise<number> {
    if (control < CONTROL_LZMA) return this.#readPlain(reader, control);
    if (!(await reader.ensure(6))) throw cutOff('xz', reader);
    const reset = (control >> 5) & 3;
    const header = Buffer.from(reader.take(reset >= RESET_PROPERTIES ? 6 : 5));
    const size = ((control & 0x1f) << 16) + header.readUInt16BE(1) + 1;
    const packed = header.readUInt16BE(3) + 1;
    if (!(await reader.ensure(packed))) throw cutOff('xz', reader);
    if (reset === RESET_ALL) this.#resetDictionary();
    if (reset >= RESET_PROPERTIES && !this.#setProperties(header[5])) throw damaged('xz', reader);
    if (reset >= RESET_STATE) this.#resetState();
    if (this.#needsDictionary || this.#needsProperties || this.#needsState) throw damaged('xz', reader);
    this.#input = reader.take(packed);
    if (!this.#startRange(packed) || !this.#decodeChunk(size)) throw damaged('xz', reader);
    // The range coder ends exactly with the chunk.
    if (this.#inputAt !== packed || this.#code !== 0) throw damaged('xz', reader);
    return size;
  }

  async #readPlain(reader: ChunkReader, control: number): Promise<number> {
    if (control > CONTROL_PLAIN) throw damaged('xz', reader);
    if (!(await reader.ensure(3))) throw cutOff('xz', reader);
    const size = reader.take(3).readUInt16BE(1) + 1;
    if (control === CONTROL_PLAIN_RESET) {
      this.#resetDictionary();
      this.#needsProperties = true;
      this.#needsState = true;
    }
    if (this.#needsDictionary) throw damaged('xz', reader);
    if (!(await reader.ensure(size))) throw cutOff('xz', reader);
    const bytes = reader.take(size);
    const whole = Math.min(size, this.#ring.length - this.#at);
    bytes.copy(this.#ring, this.#at, 0, whole);
    bytes.copy(this.#ring, 0, whole);
    this.#at = (this.#at + size) % this.#ring.length;
    this.#reach = Math.min(this.#reach + size, this.#ring.length);
    this.#total = (this.#total + size) >>> 0;
    return size;
  }

  #resetDictionary(): void {
    this.#reach = 0;
    this.#total = 0;
    this.#needsDictionary = false;
  }

  /** The byte with lc, lp and pb. */
  #setProperties(byte: number): boolean {
    if (byte > (4 * 5 + 4) * 9 + 8) return false;
    const context = byte % 9;
    const position = Math.floor(byte / 9) % 5;
    if (context + position > 4) return false;
    this.#literalContext = context;
    this.#literalPosition = position;
    this.#positionMask = (1 << Math.floor(byte / 45)) - 1;
    const count = LITERALS + (LITERAL_CODER << (context + position));
    if (count !== this.#probabilities.length) this.#probabilities = new Uint16Array(count);
    this.#needsProperties = false;
    return true;
  }

  #resetState(): void {
    this.#probabilities.fill(PROBABILITY_HALF);
    this.#state = 0;
    this.#rep0 = this.#rep1 = this.#rep2 = this.#rep3 = 0;
    this.#needsState = false;
  }

  #startRange(packed: number): boolean {
    if (packed < 5 || this.#input[0] !== 0) return false;
    this.#range = -1;
    this.#code = this.#input.readInt32BE(1);
    this.#inputAt = 5;
    return true;
  }

  /** Decodes `size` bytes; false where the stream is damaged. Bytes beyond the input read as zeros, and show later. */
  #decodeChunk(size: number): boolean {
    for (let left = size; left > 0; ) {
      const positionState = this.#total & this.#positionMask;
      if (this.#bit(IS_MATCH + this.#state * POSITION_STATES + positionState) === 0) {
        this.#literal();
        left -= 1;
        continue;
      }
      const isNew = this.#bit(IS_REP + this.#state) === 0;
      const length = isNew ? this.#match(positionState) : this.#repeat(positionState);
      if (this.#rep0 >= this.#reach || length > left) return false;
      this.#copy(length);
      left -= length;
    }
    this.#normalize();
    return true;
  }

  #literal(): void {
    const ring = this.#ring;
    const before = this.#reach === 0 ? 0 : ring[this.#at === 0 ? ring.length - 1 : this.#at - 1];
    const low = this.#total & ((1 << this.#literalPosition) - 1);
    const context = (low << this.#literalContext) + (before >> (8 - this.#literalContext));
    const base = LITERALS + LITERAL_CODER * context;
    let symbol = 1;
    if (this.#state >= FIRST_MATCH_STATE) {
      let match = this.#byteAt(this.#rep0);
      do {
        const matchBit = (match >> 7) & 1;
        match <<= 1;
        const bit = this.#bit(base + ((1 + matchBit) << 8) + symbol);
        symbol = (symbol << 1) | bit;
        if (matchBit !== bit) break;
      } while (symbol < 0x100);
    }
    while (symbol < 0x100) symbol = (symbol << 1) | this.#bit(base + symbol);
    this.#put(symbol & 0xff);
    const state = this.#state;
    this.#state = state < 4 ? 0 : state < 10 ? state - 3 : state - 6;
  }

  #match(positionState: number): number {
    const length = this.#length(MATCH_LENGTH, positionState);
    this.#use(this.#distance(length), 3);
    this.#state = this.#state < FIRST_MATCH_STATE ? 7 : 10;
    return length;
  }

  #repeat(positionState: number): number {
    const state = this.#state;
    if (this.#bit(IS_REP0 + state) === 0) {
      if (this.#bit(IS_REP0_LONG + state * POSITION_STATES + positionState) === 0) {
        this.#state = state < FIRST_MATCH_STATE ? 9 : 11;
        return 1;
      }
    } else if (this.#bit(IS_REP1 + state) === 0) {
      this.#use(this.#rep1, 1);
    } else if (this.#bit(IS_REP2 + state) === 0) {
      this.#use(this.#rep2, 2);
    } else {
      this.#use(this.#rep3, 3);
    }
    const length = this.#length(REP_LENGTH, positionState);
    this.#state = state < FIRST_MATCH_STATE ? 8 : 11;
    return length;
  }

  /** Puts a distance in front, moving `moved` others back. */
  #use(distance: number, moved: number): void {
    if (moved > 2) this.#rep3 = this.#rep2;
    if (moved > 1) this.#rep2 = this.#rep1;
    this.#rep1 = this.#rep0;
    this.#rep0 = distance;
  }

  #length(base: number, positionState: number): number {
    if (this.#bit(base) === 0) return MIN_MATCH + this.#tree(base + LENGTH_LOW + positionState * 8, 3);
    if (this.#bit(base + 1) === 0) return MIN_MATCH + 8 + this.#tree(base + LENGTH_MIDDLE + positionState * 8, 3);
    return MIN_MATCH + 16 + this.#tree(base + LENGTH_HIGH, 8);
  }

  /** Distance minus one. */
  #distance(length: number): number {
    const slot = this.#tree(DISTANCE_SLOT + Math.min(length - MIN_MATCH, 3) * 64, 6);
    if (slot < FIRST_MODELLED_SLOT) return slot;
    const bits = (slot >> 1) - 1;
    const high = (2 | (slot & 1)) * 2 ** bits;
    if (slot < FIRST_DIRECT_SLOT) return high + this.#reverseTree(DISTANCE_SPECIAL + high - slot, bits);
    return high + this.#direct(bits - 4) * 16 + this.#reverseTree(DISTANCE_ALIGN, 4);
  }

  #copy(length: number): void {
    const ring = this.#ring;
    const distance = this.#rep0 + 1;
    let from = this.#at - distance;
    if (from < 0) from += ring.length;
    if (this.#at + length <= ring.length && from + length <= ring.length) {
      let at = this.#at;
      for (let count = 0; count < length; count += 1) {
        ring[at] = ring[from];
        at += 1;
        from += 1;
      }
      this.#at = at === ring.length ? 0 : at;
      this.#reach = Math.min(this.#reach + length, ring.length);
      this.#total = (this.#total + length) >>> 0;
      return;
    }
    for (let count = 0; count < length; count += 1) this.#put(this.#byteAt(distance - 1));
  }

  #byteAt(distance: number): number {
    const from = this.#at - distance - 1;
    return this.#ring[from < 0 ? from + this.#ring.length : from];
  }

  #put(byte: number): void {
    this.#ring[this.#at] = byte;
    this.#at += 1;
    if (this.#at === this.#ring.length) this.#at = 0;
    if (this.#reach < this.#ring.length) this.#reach += 1;
    this.#total = (this.#total + 1) >>> 0;
  }

  #tree(base: number, bits: number): number {
    let symbol = 1;
    for (let bit = 0; bit < bits; bit += 1) symbol = (symbol << 1) | this.#bit(base + symbol);
    return symbol - (1 << bits);
  }

  #reverseTree(base: number, bits: number): number {
    let node = 1;
    let symbol = 0;
    for (let place = 0; place < bits; place += 1) {
      const bit = this.#bit(base + node);
      node = (node << 1) | bit;
      symbol |= bit << place;
    }
    return symbol;
  }

  #direct(bits: number): number {
    let value = 0;
    for (let bit = 0; bit < bits; bit += 1) {
      this.#normalize();
      this.#range >>>= 1;
      const one = this.#code >>> 0 >= this.#range ? 1 : 0;
      if (one) this.#code = (this.#code - this.#range) | 0;
      value = value * 2 + one;
    }
    return value;
  }

  #bit(index: number): 0 | 1 {
    this.#normalize();
    const probability = this.#probabilities[index];
    const bound = Math.imul(this.#range >>> 11, probability);
    if (this.#code >>> 0 < bound >>> 0) {
      this.#range = bound;
      this.#probabilities[index] = probability + ((2048 - probability) >> 5);
      return 0;
    }
    this.#range = (this.#range - bound) | 0;
    this.#code = (this.#code - bound) | 0;
    this.#probabilities[index] = probability - (probability >> 5);
    return 1;
  }

  #normalize(): void {
    if (this.#range >>> 0 >= TOP) return;
    this.#range <<= 8;
    this.#code = (this.#code << 8) | (this.#inputAt < this.#input.length ? this.#input[this.#inputAt] : 0);
    this.#inputAt += 1;
  }
}
