/** A guest disk in memory, to compare images with: every byte of it is known. */

/** Repeatable random numbers: the same seed gives the same sequence (mulberry32, public domain). */
export class Random {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** An integer from 0 up to, not including, `end` (at most 2^32). */
  below(end: number): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0;
    let mixed = this.#state;
    mixed = Math.imul(mixed ^ (mixed >>> 15), mixed | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 0x1_0000_0000) * end);
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)];
  }

  bytes(length: number): Buffer {
    const bytes = Buffer.allocUnsafe(length);
    for (let at = 0; at < length; at += 1) bytes[at] = this.below(256);
    return bytes;
  }

  /** The same items in another order. */
  shuffled<T>(items: readonly T[]): T[] {
    const order = [...items];
    for (let at = order.length - 1; at > 0; at -= 1) {
      const other = this.below(at + 1);
      [order[at], order[other]] = [order[other], order[at]];
    }
    return order;
  }
}

/** Bytes without zeros that compress well, and differ for each seed. */
export function pattern(length: number, seed: number): Buffer {
  const bytes = Buffer.allocUnsafe(length);
  for (let at = 0; at < length; at += 1) bytes[at] = 1 + ((seed * 31 + (at >> 4)) % 255);
  return bytes;
}

/**
 * What a disk must read as. After a discard a format may keep the old bytes, show zeros, or show what
 * the backing file has; `expectDiscarded` then takes over what was found, once it is one of these.
 */
export class DiskModel {
  readonly bytes: Buffer;
  /** What shows through where the image holds nothing. */
  readonly backing: Buffer;

  constructor(size: number, backing: Buffer = Buffer.alloc(0)) {
    this.backing = Buffer.alloc(size);
    backing.copy(this.backing, 0, 0, size);
    this.bytes = Buffer.from(this.backing);
  }

  get size(): number {
    return this.bytes.length;
  }

  write(offset: number, buffer: Buffer): void {
    buffer.copy(this.bytes, offset);
  }

  zero(offset: number, length: number): void {
    this.bytes.fill(0, offset, offset + length);
  }

  /** The first offset in [offset, offset + found.length) where `found` is wrong, or -1. */
  mismatch(offset: number, found: Buffer): number {
    const expected = this.bytes.subarray(offset, offset + found.length);
    if (expected.equals(found)) return -1;
    return offset + found.findIndex((byte, at) => byte !== expected[at]);
  }

  /** Takes over the bytes of a discarded range; returns the first offset where they are impossible, or -1. */
  settleDiscard(offset: number, found: Buffer): number {
    for (let at = 0; at < found.length; at += 1) {
      const byte = found[at];
      if (byte !== 0 && byte !== this.bytes[offset + at] && byte !== this.backing[offset + at]) return offset + at;
    }
    found.copy(this.bytes, offset);
    return -1;
  }
}
