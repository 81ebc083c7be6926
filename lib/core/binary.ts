import { ImageError } from './errors.ts';

/** Reads an unsigned 64-bit integer that must be an offset, a size or a count: below 2^53. */
export function readU64BE(buffer: Buffer, at: number, what: string): number {
  const value = buffer.readUInt32BE(at) * 0x1_0000_0000 + buffer.readUInt32BE(at + 4);
  if (value > Number.MAX_SAFE_INTEGER) throw tooLarge(what);
  return value;
}

/** Little-endian sibling of `readU64BE`. */
export function readU64LE(buffer: Buffer, at: number, what: string): number {
  const value = buffer.readUInt32LE(at + 4) * 0x1_0000_0000 + buffer.readUInt32LE(at);
  if (value > Number.MAX_SAFE_INTEGER) throw tooLarge(what);
  return value;
}

/** Writes a number below 2^53 as 64 bits, big-endian. */
export function writeU64BE(buffer: Buffer, at: number, value: number): void {
  buffer.writeUInt32BE(Math.floor(value / 0x1_0000_0000), at);
  buffer.writeUInt32BE(value % 0x1_0000_0000, at + 4);
}

/** Writes a number below 2^53 as 64 bits, little-endian. */
export function writeU64LE(buffer: Buffer, at: number, value: number): void {
  buffer.writeUInt32LE(value % 0x1_0000_0000, at);
  buffer.writeUInt32LE(Math.floor(value / 0x1_0000_0000), at + 4);
}

function tooLarge(what: string): ImageError {
  return new ImageError('corrupt', `${what} is larger than any file can be`);
}

/** Rounds up to a multiple of `unit` (any positive integer). */
export function alignUp(value: number, unit: number): number {
  return Math.ceil(value / unit) * unit;
}

/** Rounds down to a multiple of `unit`. */
export function alignDown(value: number, unit: number): number {
  return Math.floor(value / unit) * unit;
}

export function isPowerOfTwo(value: number): boolean {
  return value > 0 && Number.isInteger(Math.log2(value));
}
