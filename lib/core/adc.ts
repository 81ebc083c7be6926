import { ImageError } from './errors.ts';

/**
 * Apple Data Compression: bytes as they are, and copies of what came before, told apart by the top bits of a control
 * byte. Apple published no specification; the format is described in the documentation of several readers.
 *
 *     1nnnnnnn                    n + 1 bytes follow
 *     00nnnndd dddddddd           n + 3 bytes from d + 1 back
 *     01nnnnnn dddddddd dddddddd  n + 4 bytes from d + 1 back
 */
const PLAIN = 0x80;
const LONG = 0x40;
/** The most that a byte can stand for: 67 bytes in three. */
const MAX_RATIO = 23;

/** Decodes `size` bytes; what follows them in `packed` is ignored. A `corrupt` ImageError where that can't be done. */
export function decodeAdc(packed: Buffer, size: number): Buffer {
  if (size > packed.length * MAX_RATIO) throw broken();
  const out = Buffer.allocUnsafeSlow(size);
  let at = 0;
  let filled = 0;
  while (filled < size) {
    const control = packed[at];
    // Past the end a byte is undefined, and the numbers made of it are not in any range.
    if (control === undefined) throw broken();
    if ((control & PLAIN) !== 0) {
      const length = (control & 0x7f) + 1;
      if (at + 1 + length > packed.length || filled + length > size) throw broken();
      packed.copy(out, filled, at + 1, at + 1 + length);
      at += 1 + length;
      filled += length;
      continue;
    }
    const long = (control & LONG) !== 0;
    const length = long ? (control & 0x3f) + 4 : (control >> 2) + 3;
    const distance = (long ? packed[at + 1] * 256 + packed[at + 2] : (control & 3) * 256 + packed[at + 1]) + 1;
    if (!(distance <= filled) || filled + length > size) throw broken();
    copyWithin(out, filled, distance, length);
    at += long ? 3 : 2;
    filled += length;
  }
  return out;
}

/** Copies from `distance` back, a byte at a time as it were: what is copied may be copied again. */
export function copyWithin(out: Buffer, at: number, distance: number, length: number): void {
  if (distance >= length && length > 32) {
    out.copyWithin(at, at - distance, at - distance + length);
    return;
  }
  for (let end = at + length, to = at, from = at - distance; to < end; to += 1, from += 1) out[to] = out[from];
}

function broken(): ImageError {
  return new ImageError('corrupt', 'The ADC stream of a chunk is broken');
}
