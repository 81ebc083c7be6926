/** The block's bits end before the block does. */
export class OutOfBits extends Error {}

const MAX_CODE_BITS = 20;
const MAX_SYMBOLS = 258;
const GROUP_SYMBOLS = 50;
const FAST_BITS = 10;
const CHUNK_BYTES = 1024 * 1024;
/** Four equal bytes are followed by how many more of them there are. */
const RUN_START = 4;

/** CRC-32 with bits from the top (polynomial 0x04c11db7): bzip2's own; zlib's runs the other way. */
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 24;
  for (let bit = 0; bit < 8; bit += 1) crc = crc & 0x8000_0000 ? (crc << 1) ^ 0x04c1_1db7 : crc << 1;
  return crc >>> 0;
});

/** One prefix code: lengths up to 20 bits, shorter codes first, each length in order of symbols. */
class PrefixCode {
  /** By the next ten bits: symbol << 5 | length; 0 where the code is longer. */
  readonly fast = new Uint16Array(1 << FAST_BITS);
  /** By length: one past the last code of that length, shifted to the top of 20 bits. */
  readonly limits = new Int32Array(MAX_CODE_BITS + 2);
  /** By length: what to add to a code for its place in `symbols`. */
  readonly offsets = new Int32Array(MAX_CODE_BITS + 2);
  readonly symbols = new Uint16Array(MAX_SYMBOLS);

  /** False where the lengths are those of no prefix code. */
  build(lengths: Uint8Array, count: number): boolean {
    this.fast.fill(0);
    let code = 0;
    let place = 0;
    for (let bits = 1; bits <= MAX_CODE_BITS; bits += 1) {
      this.offsets[bits] = place - code;
      for (let symbol = 0; symbol < count; symbol += 1) {
        if (lengths[symbol] !== bits) continue;
        if (bits <= FAST_BITS) {
          const from = code << (FAST_BITS - bits);
          this.fast.fill((symbol << 5) | bits, from, from + (1 << (FAST_BITS - bits)));
        }
        this.symbols[place] = symbol;
        place += 1;
        code += 1;
      }
      if (code > 1 << bits) return false;
      this.limits[bits] = code << (MAX_CODE_BITS - bits);
      code <<= 1;
    }
    return true;
  }
}

/**
 * Decodes one bzip2 block from a buffer: prefix codes, move-to-front and runs of it, the inverse of the
 * Burrows-Wheeler transform, and the runs that were made before all that.
 */
export class Bzip2Block {
  /** CRC of the contents put out so far. */
  checksum = 0;
  /** Lower 8 bits: the byte; the others: where its follower lies. */
  readonly #links: Uint32Array;
  readonly #codes = Array.from({ length: 6 }, () => new PrefixCode());
  readonly #selectors = new Uint8Array(32768);
  readonly #front = new Uint8Array(256);
  readonly #counts = new Uint32Array(256);
  #bytes: Buffer = Buffer.alloc(0);
  #at = 0;
  #bits = 0;
  #bitCount = 0;
  #origin = 0;
  #size = 0;

  /** @param capacity bytes of a block before the last step */
  constructor(capacity: number) {
    this.#links = new Uint32Array(capacity);
  }

  /** Reads from bit `bit` (0 to 7, from the top) of the first byte on. */
  start(bytes: Buffer, bit: number): void {
    this.#bytes = bytes;
    this.#at = 0;
    this.#bits = 0;
    this.#bitCount = 0;
    if (bit > 0) this.#read(bit);
  }

  /** Bits consumed from the start of the buffer. */
  get bitPosition(): number {
    return this.#at * 8 - this.#bitCount;
  }

  readMagic(): number {
    return this.#read(24) * 0x100_0000 + this.#read(24);
  }

  readChecksum(): number {
    return this.#read(16) * 0x1_0000 + this.#read(16);
  }

  isRandomised(): boolean {
    return this.#read(1) === 1;
  }

  /** Decodes the block up to the Burrows-Wheeler transform; false where it is damaged. */
  decode(): boolean {
    this.#origin = this.#read(24);
    const used = this.#readUsedBytes();
    const codes = this.#read(3);
    const selectors = this.#read(15);
    if (used === 0 || codes < 2 || codes > 6 || selectors === 0) return false;
    if (!this.#readSelectors(selectors, codes)) return false;
    for (let index = 0; index < codes; index += 1) if (!this.#readCode(this.#codes[index], used + 2)) return false;
    if (!this.#readSymbols(used + 1, selectors)) return false;
    if (this.#origin >= this.#size) return false;
    this.#link();
    return true;
  }

  /** The block's contents, in chunks. `checksum` counts what has come out. */
  *contents(): Generator<Buffer, void, void> {
    const links = this.#links;
    const output = Buffer.allocUnsafeSlow(CHUNK_BYTES + 256);
    let crc = 0xffff_ffff;
    let filled = 0;
    let position = links[this.#origin] >>> 8;
    let last = -1;
    let run = 0;
    for (let left = this.#size; left > 0; left -= 1) {
      const link = links[position];
      const byte = link & 0xff;
      position = link >>> 8;
      if (run === RUN_START) {
        output.fill(last, filled, filled + byte);
        for (let copy = 0; copy < byte; copy += 1) crc = (crc << 8) ^ CRC_TABLE[(crc >>> 24) ^ last];
        filled += byte;
        run = 0;
        last = -1;
      } else {
        run = byte === last ? run + 1 : 1;
        last = byte;
        output[filled] = byte;
        filled += 1;
        crc = (crc << 8) ^ CRC_TABLE[(crc >>> 24) ^ byte];
      }
      if (filled >= CHUNK_BYTES) {
        yield output.subarray(0, filled);
        filled = 0;
      }
    }
    this.checksum = ~crc >>> 0;
    if (filled > 0) yield output.subarray(0, filled);
  }

  /** Which byte values occur: 16 bits say which sixteenths have any, then 16 bits for each of those. */
  #readUsedBytes(): number {
    const sixteenths = this.#read(16);
    let used = 0;
    for (let high = 0; high < 16; high += 1) {
      if (((sixteenths >> (15 - high)) & 1) === 0) continue;
      const bits = this.#read(16);
      for (let low = 0; low < 16; low += 1) {
        if (((bits >> (15 - low)) & 1) === 0) continue;
        this.#front[used] = high * 16 + low;
        used += 1;
      }
    }
    return used;
  }

  /** Which code each group of 50 symbols uses: moved to front, in unary. */
  #readSelectors(count: number, codes: number): boolean {
    const order = [0, 1, 2, 3, 4, 5];
    for (let index = 0; index < count; index += 1) {
      let place = 0;
      while (this.#read(1) === 1) {
        place += 1;
        if (place >= codes) return false;
      }
      const [code] = order.splice(place, 1);
      order.unshift(code);
      this.#selectors[index] = code;
    }
    return true;
  }

  /** The lengths of a code: the first in 5 bits, then steps up and down. */
  #readCode(code: PrefixCode, symbols: number): boolean {
    const lengths = new Uint8Array(symbols);
    let length = this.#read(5);
    for (let symbol = 0; symbol < symbols; symbol += 1) {
      for (;;) {
        if (length < 1 || length > MAX_CODE_BITS) return false;
        if (this.#read(1) === 0) break;
        length += this.#read(1) === 0 ? 1 : -1;
      }
      lengths[symbol] = length;
    }
    return code.build(lengths, symbols);
  }

  /** Symbols 0 and 1 are digits of a run's length; the others a place in the list of bytes, plus one. */
  #readSymbols(end: number, selectors: number): boolean {
    const links = this.#links;
    const front = this.#front;
    this.#counts.fill(0);
    let size = 0;
    let run = 0;
    let digit = 1;
    for (let group = 0; group < selectors; group += 1) {
      const code = this.#codes[this.#selectors[group]];
      for (let index = 0; index < GROUP_SYMBOLS; index += 1) {
        const symbol = this.#readSymbol(code);
        if (symbol < 0) return false;
        if (symbol <= 1) {
          run += digit << symbol;
          digit <<= 1;
          if (run > links.length) return false;
          continue;
        }
        if (run > 0) {
          if (size + run > links.length) return false;
          links.fill(front[0], size, size + run);
          this.#counts[front[0]] += run;
          size += run;
          run = 0;
          digit = 1;
        }
        if (symbol === end) {
          this.#size = size;
          return true;
        }
        if (size >= links.length) return false;
        const byte = front[symbol - 1];
        front.copyWithin(1, 0, symbol - 1);
        front[0] = byte;
        this.#counts[byte] += 1;
        links[size] = byte;
        size += 1;
      }
    }
    return false;
  }

  #link(): void {
    const links = this.#links;
    const places = this.#counts;
    let sum = 0;
    for (let byte = 0; byte < 256; byte += 1) {
      const count = places[byte];
      places[byte] = sum;
      sum += count;
    }
    for (let index = 0; index < this.#size; index += 1) {
      const byte = links[index] & 0xff;
      links[places[byte]] |= index << 8;
      places[byte] += 1;
    }
  }

  #readSymbol(code: PrefixCode): number {
    while (this.#bitCount < MAX_CODE_BITS && this.#at < this.#bytes.length) this.#more();
    const next =
      this.#bitCount >= MAX_CODE_BITS
        ? (this.#bits >>> (this.#bitCount - MAX_CODE_BITS)) & 0xf_ffff
        : (this.#bits << (MAX_CODE_BITS - this.#bitCount)) & 0xf_ffff;
    const fast = code.fast[next >>> (MAX_CODE_BITS - FAST_BITS)];
    let length = fast & 31;
    let symbol = fast >>> 5;
    if (fast === 0) {
      length = FAST_BITS + 1;
      while (length <= MAX_CODE_BITS && next >= code.limits[length]) length += 1;
      if (length > MAX_CODE_BITS) return -1;
      symbol = code.symbols[(next >>> (MAX_CODE_BITS - length)) + code.offsets[length]];
    }
    if (length > this.#bitCount) throw new OutOfBits();
    this.#bitCount -= length;
    return symbol;
  }

  /** Up to 24 bits. */
  #read(count: number): number {
    while (this.#bitCount < count) {
      if (this.#at >= this.#bytes.length) throw new OutOfBits();
      this.#more();
    }
    this.#bitCount -= count;
    return (this.#bits >>> this.#bitCount) & ((1 << count) - 1);
  }

  /** One more byte; older bits fall off the top of the 32. */
  #more(): void {
    this.#bits = (this.#bits << 8) | this.#bytes[this.#at];
    this.#at += 1;
    this.#bitCount += 8;
  }
}
