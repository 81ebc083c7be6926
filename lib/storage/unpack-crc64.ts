/** CRC-64 of ECMA-182, bits from the bottom: xz's usual check. Two halves of 32 bits each, four bytes a step. */
const POLYNOMIAL = { high: 0xc96c5795, low: 0xd7870f42 };
const SLICES = 4;

const HIGH = Array.from({ length: SLICES }, () => new Int32Array(256));
const LOW = Array.from({ length: SLICES }, () => new Int32Array(256));
for (let byte = 0; byte < 256; byte += 1) {
  let [high, low] = [0, byte];
  for (let bit = 0; bit < 8 * SLICES; bit += 1) {
    const carry = low & 1;
    low = (low >>> 1) | (high << 31);
    high >>>= 1;
    if (carry) {
      high ^= POLYNOMIAL.high;
      low ^= POLYNOMIAL.low;
    }
    if (bit % 8 === 7) {
      HIGH[bit >> 3][byte] = high;
      LOW[bit >> 3][byte] = low;
    }
  }
}
const [H0, H1, H2, H3] = HIGH;
const [L0, L1, L2, L3] = LOW;

export class Crc64 {
  #high = -1;
  #low = -1;

  update(bytes: Buffer): void {
    let high = this.#high;
    let low = this.#low;
    const steps = bytes.length & ~(SLICES - 1);
    let at = 0;
    for (; at < steps; at += SLICES) {
      const next = low ^ (bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24));
      const [a, b, c, d] = [next & 0xff, (next >>> 8) & 0xff, (next >>> 16) & 0xff, next >>> 24];
      low = high ^ L3[a] ^ L2[b] ^ L1[c] ^ L0[d];
      high = H3[a] ^ H2[b] ^ H1[c] ^ H0[d];
    }
    for (; at < bytes.length; at += 1) {
      const index = (low ^ bytes[at]) & 0xff;
      low = ((low >>> 8) | (high << 24)) ^ L0[index];
      high = (high >>> 8) ^ H0[index];
    }
    this.#high = high;
    this.#low = low;
  }

  /** Little-endian, as it is written. */
  digest(): Buffer {
    const digest = Buffer.alloc(8);
    digest.writeInt32LE(~this.#low, 0);
    digest.writeInt32LE(~this.#high, 4);
    return digest;
  }
}
